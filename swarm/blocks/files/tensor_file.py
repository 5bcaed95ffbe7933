"""Tensors in files: where each one's bytes lie, and how they become numbers.

A store knows names and places only; bytes are read one tensor (or a few rows) at a time with positioned
reads. Nothing is mapped into memory, so a file that shrinks under a running server is an error of ours and not a
bus error, and blocks that are not served are never touched.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from swarm.blocks.files.gguf_codes import OWN_BITS, as_codes
from swarm.blocks.quantize import empty, quantize
from swarm.blocks.weights import QuantizedWeight
from swarm.errors import CheckpointCorrupt, UsageError

_SLICE_BYTES = 1 << 20
"""Stored bytes decoded at once: bounds the temporaries of several readers (4-bit codes grow eightfold when decoded),
large enough that Python's share is small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor's place in a file.

    Attributes:
        name: As the file calls it.
        path: The file.
        offset: Of the first byte, from the start of the file.
        shape: In PyTorch's order, out-major for weights.
        row_bytes: Stored bytes of one row (the last dimension).
        decode: Turns whole rows of stored bytes, (rows * row_bytes,) uint8, into numbers, (rows, shape[-1]).
        kind: The stored format's name, such as "bfloat16" or "Q4_1".
    """

    name: str
    path: Path
    offset: int
    shape: tuple[int, ...]
    row_bytes: int
    decode: Callable[[Tensor], Tensor]
    kind: str

    @property
    def num_rows(self) -> int:
        """Rows, all dimensions but the last taken together."""
        return math.prod(self.shape[:-1])

    @property
    def num_bytes(self) -> int:
        """Stored bytes of the whole tensor."""
        return self.num_rows * self.row_bytes

    def run_of_rows(self, index: int, count: int) -> StoredTensor:
        """Return the matrix (rows / count, shape[-1]) that the `index`-th of `count` equal runs of rows makes.

        Raises:
            CheckpointCorrupt: The rows cannot be cut so.
        """
        rows, rest = divmod(self.num_rows, count)
        if rest or not 0 <= index < count:
            raise CheckpointCorrupt(
                f"{self.path}: tensor {self.name} of shape {self.shape} does not hold {count} parts"
            )
        return replace(self, offset=self.offset + index * rows * self.row_bytes, shape=(rows, self.shape[-1]))

    def raw(self, start: int = 0, end: int | None = None) -> Tensor:
        """Read the stored bytes of the rows [start, end), (bytes,) uint8.

        Raises:
            CheckpointCorrupt: The file ends before the tensor does, or cannot be read.
        """
        end = self.num_rows if end is None else end
        wanted = (end - start) * self.row_bytes
        buffer = torch.empty(wanted, dtype=torch.uint8)
        _read_into(self, buffer.numpy().data, self.offset + start * self.row_bytes)
        return buffer

    def slices(self) -> Iterator[tuple[int, int, Tensor]]:
        """Read the tensor in slices of rows: (start, end, stored bytes)."""
        step = max(1, _SLICE_BYTES // max(1, self.row_bytes))
        for start in range(0, self.num_rows, step):
            end = min(self.num_rows, start + step)
            yield start, end, self.raw(start, end)

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """Read and decode the tensor, `shape` in `dtype`; never holds it in two formats at once.

        Raises:
            CheckpointCorrupt: Cut short, or it holds NaN or infinity.
            UsageError: A number is too large for `dtype`.
        """
        numbers = torch.empty((self.num_rows, self.shape[-1]), dtype=dtype)
        for start, end, raw in self.slices():
            decoded = self.decode(raw)
            self.require_finite(decoded)
            numbers[start:end] = decoded
            if decoded.dtype != dtype and not _is_finite(numbers[start:end]):
                name, largest = str(dtype).removeprefix("torch."), float(decoded.abs().max())
                raise UsageError(
                    f"{self.path}: tensor {self.name} has numbers up to {largest:.3g}, the limit of {name} is "
                    f"{torch.finfo(dtype).max:.3g}: choose --dtype bfloat16 or float32"
                )
        return numbers.view(self.shape)

    def quantized(self, bits: int) -> QuantizedWeight:
        """Read the tensor as a matrix (rows, shape[-1]) of codes; a stored format that maps keeps its own.

        Raises:
            CheckpointCorrupt: As `numbers`.
        """
        is_own = OWN_BITS.get(self.kind) == bits
        weight = empty(self.num_rows, self.shape[-1], bits, is_symmetric=bits == 8 or (is_own and self.kind == "Q4_0"))
        for start, end, raw in self.slices():
            if is_own:
                part = as_codes(raw, self.kind, self.shape[-1])
            else:
                decoded = self.decode(raw)
                self.require_finite(decoded)
                part = quantize(decoded, bits)
            weight.codes[start:end], weight.scales[start:end] = part.codes, part.scales
            self.require_finite(part.scales)
            if weight.minimums is not None and part.minimums is not None:
                weight.minimums[start:end] = part.minimums
                self.require_finite(part.minimums)
        return weight

    def require_finite(self, numbers: Tensor) -> None:
        """Check numbers decoded from here.

        Raises:
            CheckpointCorrupt: NaN or infinity is among them.
        """
        if not _is_finite(numbers):
            raise CheckpointCorrupt(
                f"{self.path}: tensor {self.name} holds NaN or infinite weights: copy the file again, or use another"
            )


class TensorStore(Protocol):
    """The tensors of one checkpoint, by the names that its files use."""

    def names(self) -> frozenset[str]:
        """Every tensor's name; reads no tensor."""
        ...

    def find(self, name: str) -> StoredTensor:
        """Return where `name` lies.

        Raises:
            CheckpointCorrupt: There is no such tensor, or its file is missing or malformed.
        """
        ...


def _is_finite(numbers: Tensor) -> bool:
    # One sum tells it of nearly all tensors, in a fraction of the time; a sum may overflow where no number does.
    return bool(torch.isfinite(numbers.sum(dtype=torch.float32))) or bool(torch.isfinite(numbers).all())


def _read_into(tensor: StoredTensor, target: memoryview, offset: int) -> None:
    try:
        with open(tensor.path, "rb", buffering=0) as file:
            done = 0
            while done < len(target):
                count = os.preadv(file.fileno(), [target[done:]], offset + done)
                if count == 0:
                    raise CheckpointCorrupt(
                        f"{tensor.path}: tensor {tensor.name} lacks its last {len(target) - done} bytes: copy it again"
                    )
                done += count
    except OSError as error:
        raise CheckpointCorrupt(f"{tensor.path}: tensor {tensor.name} cannot be read ({error.strerror})") from error
