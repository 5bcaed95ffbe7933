"""GGUF: header of typed pairs, table of tensors, aligned data (format: ggml's docs/gguf.md).

The header is walked here and not by gguf.GGUFReader, which makes an array object of each of 100 000 tokenizer
strings and takes 2.5 s for the bundled model; a server needs none of them. Long arrays are skipped over,
every length is checked against the file before anything is read. Dequantising is left to the gguf package.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from swarm.blocks.files.tensor_file import StoredTensor
from swarm.errors import CheckpointCorrupt, UnsupportedModel

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_KEPT = 256
"""Elements of an array that are kept; longer ones (vocabularies, scores) are skipped, nobody here reads them."""

_MAX_ENTRIES = 1 << 20
"""Pairs or tensors in a header: a thousand times what real files have, and small enough to hold."""

_PLAIN = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
"""ggml type numbers of formats that are plain numbers."""


class GGUFStore:
    """Tensors of one GGUF file.

    Attributes:
        path: The file.
        fields: The header's pairs; arrays longer than 256 elements and nested ones are left out.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            CheckpointCorrupt: It is malformed, or a tensor ends after the file.
        """
        self.path = path
        try:
            with path.open("rb") as file:
                header = _Header(path, file)
                self.fields = header.fields
                self._tensors = header.tensors
        except OSError as error:
            raise CheckpointCorrupt(f"{path}: cannot be read ({error.strerror})") from error

    def names(self) -> frozenset[str]:
        """Every tensor's name."""
        return frozenset(self._tensors)

    def find(self, name: str) -> StoredTensor:
        """Return where `name` lies.

        Raises:
            CheckpointCorrupt: There is no such tensor.
        """
        if name not in self._tensors:
            raise CheckpointCorrupt(f"{self.path}: no tensor {name}: the file is incomplete: copy it again")
        return self._tensors[name]


class _Header:
    """One pass over a header: pairs, then the table of tensors."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._file_bytes = path.stat().st_size
        self.fields: dict[str, Any] = {}
        self.tensors: dict[str, StoredTensor] = {}
        if self._take(4) != b"GGUF":
            raise CheckpointCorrupt(f"{path}: not a GGUF file")
        version, num_tensors, num_fields = self._number("<I"), self._number("<Q"), self._number("<Q")
        if version not in (2, 3):
            raise UnsupportedModel(f"{path}: GGUF version {version}; we read 2 and 3: convert the file again")
        if max(num_tensors, num_fields) > _MAX_ENTRIES:
            raise self._corrupt(f"{num_tensors} tensors and {num_fields} fields, the limit is {_MAX_ENTRIES}")
        for _ in range(num_fields):
            key = self._string()
            value = self._value(self._number("<I"))
            if value is not None:
                self.fields[key] = value
        self._read_tensors([self._tensor_entry() for _ in range(num_tensors)])

    def _corrupt(self, what: str) -> CheckpointCorrupt:
        return CheckpointCorrupt(f"{self._path}: corrupt header ({what}): copy the file again")

    def _take(self, count: int) -> bytes:
        if count > self._file_bytes - self._file.tell():
            raise self._corrupt(f"it wants {count} bytes at {self._file.tell()} of {self._file_bytes}")
        taken = self._file.read(count)
        if len(taken) < count:
            raise self._corrupt(f"the file ended after {self._file.tell()} bytes")
        return taken

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _string(self) -> str:
        return self._take(self._number("<Q")).decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(self._number("<I"), self._number("<Q"))
        raise self._corrupt(f"unknown type {kind}")

    def _array(self, kind: int, count: int) -> list[Any] | None:
        if kind in _SCALARS:
            size = struct.calcsize(_SCALARS[kind])
            raw = self._take(count * size)
            return list(struct.unpack(f"<{count}{_SCALARS[kind][1]}", raw)) if count <= _MAX_KEPT else None
        if kind != _STRING:
            raise self._corrupt(f"an array of type {kind}")
        if count * 8 > self._file_bytes:
            raise self._corrupt(f"an array of {count} strings")
        if count <= _MAX_KEPT:
            return [self._string() for _ in range(count)]
        self._skip_strings(count)
        return None

    def _skip_strings(self, count: int) -> None:
        read, unpack = self._file.read, struct.Struct("<Q").unpack
        for _ in range(count):
            raw = read(8)
            if len(raw) < 8:
                raise self._corrupt("the file ended inside an array of strings")
            length = unpack(raw)[0]
            if length > self._file_bytes:
                raise self._corrupt(f"a string of {length} bytes")
            read(length)

    def _tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, num_dims = self._string(), self._number("<I")
        if not 1 <= num_dims <= 4:
            raise self._corrupt(f"tensor {name} of {num_dims} dimensions")
        # GGUF counts dimensions from the fastest one; PyTorch from the slowest.
        shape = tuple(self._number("<Q") for _ in range(num_dims))[::-1]
        return name, shape, self._number("<I"), self._number("<Q")

    def _read_tensors(self, entries: list[tuple[str, tuple[int, ...], int, int]]) -> None:
        alignment = self.fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
            raise self._corrupt(f"alignment {alignment}")
        start = -(-self._file.tell() // alignment) * alignment
        for name, shape, kind, offset in entries:
            tensor = _stored(self._path, name, shape, kind, start + offset)
            if tensor.offset + tensor.num_bytes > self._file_bytes:
                raise CheckpointCorrupt(
                    f"{self._path}: tensor {name} ends at byte {tensor.offset + tensor.num_bytes} of a file of "
                    f"{self._file_bytes}: it is truncated, copy it again"
                )
            self.tensors[name] = tensor


def _stored(path: Path, name: str, shape: tuple[int, ...], kind: int, offset: int) -> StoredTensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        quant = GGMLQuantizationType(kind)
        group, group_bytes = GGML_QUANT_SIZES[quant]
    except (ValueError, KeyError) as error:
        raise UnsupportedModel(f"{path}: tensor {name} has the unknown format {kind}: update gguf") from error
    if shape[-1] % group or math.prod(shape) <= 0:
        raise CheckpointCorrupt(f"{path}: tensor {name} of shape {shape} cannot hold groups of {group} ({quant.name})")
    return StoredTensor(
        name=name,
        path=path,
        offset=offset,
        shape=shape,
        row_bytes=shape[-1] // group * group_bytes,
        decode=_decoder(path, name, kind, shape[-1]),
        kind=str(_PLAIN[kind]).removeprefix("torch.") if kind in _PLAIN else quant.name,
    )


def _decoder(path: Path, name: str, kind: int, width: int) -> Callable[[Tensor], Tensor]:
    def decode(raw: Tensor) -> Tensor:
        if kind in _PLAIN:
            return raw.view(_PLAIN[kind]).view(-1, width)
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        try:
            numbers = dequantize(raw.numpy(), GGMLQuantizationType(kind))
        except NotImplementedError as error:
            quant = GGMLQuantizationType(kind).name
            raise UnsupportedModel(f"{path}: tensor {name} is stored as {quant}, which gguf cannot decode") from error
        return torch.from_numpy(numbers).view(-1, width)

    return decode
