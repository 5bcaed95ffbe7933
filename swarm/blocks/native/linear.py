"""Linear layers on the native kernels: a weight packed once, and one call per layer and step.

One layout serves every number of rows. Weights in 8 and 4 bits meet activations in 8 bits, quantised for each token and
each group of 32 inputs, so that one token's outliers touch nobody else; sums are float32. A row's bits do not depend on
the rows that travel with it, nor on the number of threads.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum

import torch
from torch import Tensor

from swarm.blocks.native.arena import Arena
from swarm.blocks.native.binding import library, why_not
from swarm.blocks.weights import GROUP, QuantizedWeight, Weight
from swarm.errors import UnsupportedModel

_OUT_OF_MEMORY = 2
"""What the library answers when it finds no memory for its scratch."""


class Format(IntEnum):
    """How a packed weight is stored, with the library's numbers."""

    BFLOAT16 = 1
    INT8 = 2
    INT4 = 3
    INT4_SYMMETRIC = 4


class NativeWeight(ctypes.Structure):
    """The library's `Weight` (src/linear.h); whoever holds one keeps the tensors behind its pointers alive."""

    _fields_ = (
        ("format", ctypes.c_int32),
        ("out", ctypes.c_int32),
        ("in_", ctypes.c_int32),
        ("packed", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class PackedWeight:
    """A weight (O, I) and a bias in the order in which the kernels stream them; the weight itself is not kept.

    Plain weights are stored as bfloat16, whatever they were.

    Attributes:
        format: How it is stored.
        shape: (O, I).
        packed: The bytes, uint8, 64-byte aligned.
        bias: (O,) float32, or None.
        native: What the library is given a pointer to.

    Args:
        arena: Whose memory to use; by default, some of its own.

    Raises:
        UnsupportedModel: There is no library.
    """

    def __init__(self, weight: Weight, bias: Tensor | None = None, *, arena: Arena | None = None) -> None:
        found = _library()
        self.format, self.shape = _format(weight), torch.Size(weight.shape)
        num_bytes = found.swarm_packed_bytes(self.format, *self.shape)
        if not num_bytes:
            raise UnsupportedModel(f"a weight of shape {tuple(self.shape)} has no {self.format.name} layout")
        with torch.inference_mode(False):  # the tensor outlives the mode of whoever loads
            self.packed = (arena or Arena(chunk_bytes=0)).take(num_bytes)
            self.bias = None if bias is None else bias.detach().to(torch.float32, copy=True).contiguous()
        codes, scales, minimums = _canonical(weight)
        pointers = [None if tensor is None else tensor.data_ptr() for tensor in (codes, scales, minimums)]
        _check(found.swarm_pack(self.format, *self.shape, *pointers, self.packed.data_ptr()))
        bias_pointer = None if self.bias is None else self.bias.data_ptr()
        self.native = NativeWeight(self.format, *self.shape, self.packed.data_ptr(), bias_pointer)

    @property
    def nbytes(self) -> int:
        """Bytes that weight and bias take in memory."""
        return self.packed.nbytes + (0 if self.bias is None else self.bias.nbytes)


class NativeLinear:
    """A packed weight as a `swarm.blocks.linear.Linear`."""

    def __init__(self, weight: Weight, bias: Tensor | None = None) -> None:
        self._packed = PackedWeight(weight, bias)
        self._out, self._in = self._packed.shape
        self._pointer = ctypes.addressof(self._packed.native)
        self._run = _library().swarm_linear

    @property
    def weight_bytes(self) -> int:
        """Bytes that weight and bias take in memory."""
        return self._packed.nbytes

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return x W^T + bias (+ add): (T, I) to (T, O), in x's dtype; float32 within.

        On `torch.get_num_threads()` threads. float16 and float64 are computed as float32.
        """
        if x.dtype not in (torch.float32, torch.bfloat16):
            return self(x.to(torch.float32), add=None if add is None else add.to(torch.float32)).to(x.dtype)
        rows, width = x.shape
        y = x.new_empty((rows, self._out))
        assert width == self._in and (add is None or (add.shape == y.shape and add.dtype == y.dtype))
        x = x.contiguous()
        added = None if add is None else add.contiguous()  # named, so that it lives through the call
        pointer = None if added is None else added.data_ptr()
        is_narrow = x.dtype == torch.bfloat16
        threads = torch.get_num_threads()
        _check(self._run(self._pointer, x.data_ptr(), pointer, y.data_ptr(), is_narrow, rows, threads))
        return y


def quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes (I,) int8, scales (I / 32,) and sums of codes (I / 32,) of one row: what weights in codes meet."""
    row = x.detach().to(torch.float32).contiguous()
    groups = row.numel() // GROUP
    codes, scales, sums = torch.empty(row.numel(), dtype=torch.int8), torch.empty(groups), torch.empty(groups)
    pointers = [tensor.data_ptr() for tensor in (codes, scales, sums)]
    _check(_library().swarm_quantize(row.data_ptr(), row.numel(), *pointers))
    return codes, scales, sums


def _format(weight: Weight) -> Format:
    if isinstance(weight, Tensor):
        return Format.BFLOAT16
    if weight.bits == 8:
        return Format.INT8
    return Format.INT4_SYMMETRIC if weight.minimums is None else Format.INT4


def _canonical(weight: Weight) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The tensors that `swarm_pack` reads, contiguous, scales as bfloat16."""
    if isinstance(weight, QuantizedWeight):
        minimums = weight.minimums
        scales = weight.scales.to(torch.bfloat16).contiguous()
        return _words(weight.codes), scales, None if minimums is None else minimums.to(torch.bfloat16).contiguous()
    return _words(weight.detach().to(torch.bfloat16)), None, None


def _words(tensor: Tensor) -> Tensor:
    """Contiguous and at a multiple of 4 bytes, which a tensor mapped from a file need not be."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 4 == 0 else tensor.clone()


def _library() -> ctypes.CDLL:
    found = library()
    if found is None:
        raise UnsupportedModel(f"no native kernels here: {why_not()}")
    return found


def _check(status: int) -> None:
    if status == _OUT_OF_MEMORY:
        raise MemoryError("no memory for the scratch of a linear layer; give the server fewer blocks")
    assert status == 0, "the library refused arguments that were checked before"
