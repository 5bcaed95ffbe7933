"""Safetensors: u64 length, JSON header, raw tensors (format: github.com/huggingface/safetensors).

A sharded checkpoint's index says which file holds which tensor, so a shard is opened only when one of its
tensors is wanted, and shards that hold nothing of ours may be absent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swarm.blocks.files.tensor_file import StoredTensor
from swarm.errors import CheckpointCorrupt, UnsupportedModel

_MAX_HEADER_BYTES = 100 << 20
"""The reference reader's own limit on the header."""

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class SafetensorsStore:
    """Tensors of one safetensors file, or of the shards that an index names.

    `source` is the file that lists the tensors; `locate` turns a shard's file name into a local path, and may download
    it.
    """

    def __init__(self, source: Path, weight_map: dict[str, str], locate: Callable[[str], Path]) -> None:
        self._source = source
        self._weight_map = weight_map
        self._locate = locate
        self._headers: dict[str, dict[str, StoredTensor]] = {}

    @classmethod
    def from_index(cls, index: Path, locate: Callable[[str], Path]) -> SafetensorsStore:
        """Read `model.safetensors.index.json`.

        Raises:
            CheckpointCorrupt: It is no index, or names files outside the checkpoint's folder.
        """
        try:
            weight_map = json.loads(index.read_bytes())["weight_map"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointCorrupt(f"{index}: not an index of safetensors shards: copy the file again") from error
        if not isinstance(weight_map, dict) or not all(_is_file_name(shard) for shard in weight_map.values()):
            raise CheckpointCorrupt(f"{index}: weight_map must map tensor names to file names")
        return cls(index, weight_map, locate)

    @classmethod
    def from_file(cls, path: Path) -> SafetensorsStore:
        """Read the header of one file that holds everything.

        Raises:
            CheckpointCorrupt: The header is malformed or points outside the file.
        """
        header = _read_header(path)
        store = cls(path, dict.fromkeys(header, path.name), lambda shard: path)
        store._headers[path.name] = header
        return store

    def names(self) -> frozenset[str]:
        """Every tensor's name; reads no tensor."""
        return frozenset(self._weight_map)

    def find(self, name: str) -> StoredTensor:
        """Return where `name` lies; opens its shard's header if need be.

        Raises:
            CheckpointCorrupt: There is no such tensor, or its shard is missing or malformed.
        """
        shard = self._weight_map.get(name)
        if shard is None:
            raise CheckpointCorrupt(
                f"{self._source}: no tensor {name}: the checkpoint is incomplete, or not of the model that config.json "
                "says: copy it again"
            )
        if shard not in self._headers:
            path = self._locate(shard)
            if not path.is_file():
                raise CheckpointCorrupt(f"{path}: missing, and it should hold tensor {name}: copy this shard too")
            self._headers[shard] = _read_header(path)
        if name not in self._headers[shard]:
            raise CheckpointCorrupt(
                f"{self._locate(shard)}: no tensor {name}, which the index puts there: copy both again"
            )
        return self._headers[shard][name]


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name not in {"", ".", ".."} and Path(name).name == name


def _read_header(path: Path) -> dict[str, StoredTensor]:
    raw, file_bytes = _header_bytes(path)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointCorrupt(f"{path}: the header is not JSON: copy the file again") from error
    if not isinstance(header, dict):
        raise CheckpointCorrupt(f"{path}: the header is not a table of tensors")
    start = 8 + len(raw)
    return {
        name: _entry(path, name, fields, start, file_bytes) for name, fields in header.items() if name != "__metadata__"
    }


def _header_bytes(path: Path) -> tuple[bytes, int]:
    """Return the header's JSON and the size of the file."""
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if file_bytes < 8 or length > min(_MAX_HEADER_BYTES, file_bytes - 8):
                raise CheckpointCorrupt(
                    f"{path}: a header of {length} bytes does not fit in a file of {file_bytes}: copy it again"
                )
            return file.read(length), file_bytes
    except OSError as error:
        raise CheckpointCorrupt(f"{path}: cannot be read ({error.strerror})") from error


def _entry(path: Path, name: str, fields: Any, start: int, file_bytes: int) -> StoredTensor:
    try:
        kind, shape, (begin, end) = fields["dtype"], tuple(fields["shape"]), fields["data_offsets"]
        if not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end)):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointCorrupt(f"{path}: tensor {name} has a malformed header entry: copy the file again") from error
    if start + end > file_bytes or begin > end:
        raise CheckpointCorrupt(
            f"{path}: tensor {name} ends at byte {start + end} of a file of {file_bytes}: truncated, copy it again"
        )
    shape = shape or (1,)
    dtype = _DTYPES.get(kind)
    row_bytes = shape[-1] * dtype.itemsize if dtype else 0
    if dtype and math.prod(shape) * dtype.itemsize != end - begin:
        raise CheckpointCorrupt(
            f"{path}: tensor {name} of shape {shape} cannot take {end - begin} bytes: copy the file again"
        )
    return StoredTensor(
        name=name,
        path=path,
        offset=start + begin,
        shape=shape,
        row_bytes=row_bytes,
        decode=_decoder(path, name, kind, shape[-1]),
        kind=str(dtype).removeprefix("torch.") if dtype else str(kind),
    )


def _decoder(path: Path, name: str, kind: str, width: int) -> Callable[[Tensor], Tensor]:
    dtype = _DTYPES.get(kind)

    def decode(raw: Tensor) -> Tensor:
        if dtype is None:
            raise UnsupportedModel(
                f"{path}: tensor {name} is stored as {kind}; we read {', '.join(_DTYPES)}: use the original "
                "weights or a GGUF file"
            )
        return raw.view(dtype).view(-1, width)

    return decode
