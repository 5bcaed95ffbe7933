"""Linear layers on a CUDA device, by torch alone.

bfloat16 and float16 are cuBLAS's. Quantised weights are decoded into a scratch that all layers of a device share, and
multiplied there; 4-bit weights meet up to 16 tokens, decoding above all, in torch's own op ("tinygemm"), which reads a
quarter of the bytes. It takes bfloat16 on devices of compute capability 8.0 and up, and wants an order of its own, so
that a 4-bit weight is held twice: 10 bits in all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from swarm.blocks.layouts.packed4 import tinygemm_parts
from swarm.blocks.layouts.plain import PlainLinear, bias_bytes
from swarm.blocks.weights import GROUP, QuantizedWeight, Weight
from swarm.errors import UsageError

_MAX_TINYGEMM_ROWS = 16
"""Tokens up to which the op, whose time grows with each few tokens, beats decoding and cuBLAS."""

_INNER_TILES = 8
"""Of the op's order: groups of 16 inputs side by side, 2, 4 or 8 as the width divides."""

_scratches: dict[torch.device, Tensor] = {}


class CudaFactory:
    """Packs weights for one device: a `swarm.blocks.linear.LinearFactory`."""

    def __init__(self, dtype: torch.dtype, device: torch.device, *, has_tinygemm: bool) -> None:
        self._dtype, self._device, self._has_tinygemm = dtype, device, has_tinygemm

    def __call__(self, weight: Weight, bias: Tensor | None) -> PlainLinear | DecodedLinear:
        """Move the weight (O, I) and the bias to the device."""
        bias = None if bias is None else bias.to(self._device, self._dtype)
        if isinstance(weight, Tensor):
            return PlainLinear(weight.to(self._device, self._dtype), bias)
        fits = weight.bits == 4 and weight.shape[0] % 8 == 0 and self._dtype == torch.bfloat16
        kind = TinygemmLinear if fits and self._has_tinygemm else DecodedLinear
        return kind(weight, bias, self._device)


def require_cuda(device: str) -> torch.device:
    """Return the CUDA device of a name.

    Raises:
        UsageError: The device is not there; the message says what is.
    """
    if not torch.cuda.is_available():
        raise UsageError(f"device {device}: this machine has no CUDA device that torch can use: choose cpu")
    where = torch.device(device)
    if (where.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {device}: this machine has cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    return where


def cuda_factory(dtype: torch.dtype, device: str) -> CudaFactory:
    """Return what packs weights for a CUDA device.

    Raises:
        UsageError: The device is not there, or does not compute in `dtype`; the message says what can.
    """
    where = require_cuda(device)
    capability = torch.cuda.get_device_capability(where)
    if dtype == torch.bfloat16 and capability < (8, 0):
        number = ".".join(map(str, capability))
        raise UsageError(f"device {device}: capability {number}, bfloat16 needs 8.0: choose --dtype float16 or cpu")
    return CudaFactory(dtype, where, has_tinygemm=capability >= (8, 0))


class DecodedLinear:
    """A quantised weight that is decoded into the shared scratch whenever it is multiplied."""

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None, device: torch.device) -> None:
        self._weight = weight.by_rows(lambda part: part.to(device))
        self._bias, self._device = bias, device

    @property
    def weight_bytes(self) -> int:
        """Bytes that weight and bias take in the device's memory."""
        return self._weight.nbytes + bias_bytes(self._bias)

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return x W^T + bias (+ add): (T, I) to (T, O)."""
        y = F.linear(x, self._decoded(x.dtype), self._bias)
        return y if add is None else y.add_(add)

    def _decoded(self, dtype: torch.dtype) -> Tensor:
        weight, (rows, width) = self._weight, self._weight.shape
        dense = _borrow(self._device, dtype, rows * width).view(rows, -1, GROUP)
        if weight.bits == 8:
            dense.copy_(weight.codes.view(dense.shape))
        else:
            halves = weight.codes.view(rows, -1, GROUP // 2)
            dense[..., : GROUP // 2].copy_(halves & 15)
            dense[..., GROUP // 2 :].copy_(halves >> 4)
            if weight.minimums is None:
                dense.sub_(8)
        dense.mul_(weight.scales.to(dtype).unsqueeze(-1))
        if weight.minimums is not None:
            dense.add_(weight.minimums.to(dtype).unsqueeze(-1))
        return dense.view(rows, width)


class TinygemmLinear(DecodedLinear):
    """A 4-bit weight in torch's own order, beside the codes for many tokens."""

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None, device: torch.device) -> None:
        super().__init__(weight, bias, device)
        codes, scales_zeros = tinygemm_parts(self._weight)
        pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
        tiles = next(tiles for tiles in (_INNER_TILES, 4, 2) if weight.shape[1] % (16 * tiles) == 0)
        self._packed: Tensor = torch.ops.aten._convert_weight_to_int4pack(pairs, tiles)
        self._scales_zeros = scales_zeros

    @property
    def weight_bytes(self) -> int:
        """Bytes that weight and bias take in the device's memory."""
        return super().weight_bytes + self._packed.nbytes + self._scales_zeros.nbytes

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return x W^T + bias (+ add): (T, I) to (T, O)."""
        if x.shape[0] > _MAX_TINYGEMM_ROWS:
            return super().__call__(x, add=add)
        y: Tensor = torch.ops.aten._weight_int4pack_mm(x.contiguous(), self._packed, GROUP, self._scales_zeros)
        if self._bias is not None:
            y.add_(self._bias)
        return y if add is None else y.add_(add)


def _borrow(device: torch.device, dtype: torch.dtype, numbers: int) -> Tensor:
    scratch = _scratches.get(device)
    if scratch is None or scratch.dtype != dtype or scratch.numel() < numbers:
        # A tensor made in inference mode could not be written outside of it, and callers come from both.
        with torch.inference_mode(False):
            scratch = _scratches[device] = torch.empty(numbers, dtype=dtype, device=device)
    return scratch[:numbers]
