"""Weights that are decoded in slices of rows while they are multiplied, in float32."""

from __future__ import annotations

import threading

import torch
import torch.nn.functional as F
from torch import Tensor

from swarm.blocks.layouts.plain import bias_bytes
from swarm.blocks.weights import GROUP, QuantizedWeight


class Sliced:
    """A layer that decodes its weight in slices of rows, and multiplies each in float32."""

    _SLICE_NUMBERS = 1 << 20
    """Of the float32 scratch: 4 MiB stay in the cache between decoding and multiplying."""

    _scratch = threading.local()

    def __init__(self, shape: torch.Size, bias: Tensor | None) -> None:
        self._shape, self._bias = shape, bias

    def _decode(self, start: int, scratch: Tensor) -> None:
        """Write the weight's rows from `start` on into `scratch` (rows, I) float32."""
        raise NotImplementedError

    def _multiply(self, x: Tensor) -> Tensor:
        (rows, width), wide = self._shape, x.to(torch.float32)
        y = torch.empty(x.shape[0], rows)
        step = max(1, self._SLICE_NUMBERS // width)
        scratch = self._borrow(min(step, rows) * width)
        for start in range(0, rows, step):
            part = scratch[: min(step, rows - start) * width].view(-1, width)
            self._decode(start, part)
            torch.mm(wide, part.t(), out=y[:, start : start + step])
        return (y if self._bias is None else y.add_(self._bias)).to(x.dtype)

    def _borrow(self, numbers: int) -> Tensor:
        scratch: Tensor | None = getattr(self._scratch, "tensor", None)
        if scratch is None or scratch.numel() < numbers:
            # A tensor made in inference mode could not be written outside of it, and callers come from both.
            with torch.inference_mode(False):
                scratch = self._scratch.tensor = torch.empty(numbers)
        return scratch


class WideningLinear(Sliced):
    """A 16-bit weight on a CPU without 16-bit arithmetic."""

    _MAX_NARROW_ROWS = 2
    """Tokens up to which torch's 16-bit kernel, whose time grows with each token, beats widening."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape, bias)
        self._weight = weight.contiguous()

    @property
    def weight_bytes(self) -> int:
        """Bytes that weight and bias take in memory."""
        return self._weight.nbytes + bias_bytes(self._bias)

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return x W^T + bias (+ add): (T, I) to (T, O)."""
        y = F.linear(x, self._weight, self._bias) if x.shape[0] <= self._MAX_NARROW_ROWS else self._multiply(x)
        return y if add is None else y.add_(add)

    def _decode(self, start: int, scratch: Tensor) -> None:
        scratch.copy_(self._weight[start : start + len(scratch)])


class DecodingLinear(Sliced):
    """A quantised weight, kept as codes: the specification of every other layout of it."""

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None) -> None:
        super().__init__(weight.shape, bias)
        self._weight = weight

    @property
    def weight_bytes(self) -> int:
        """Bytes that weight and bias take in memory."""
        return self._weight.nbytes + bias_bytes(self._bias)

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return x W^T + bias (+ add): (T, I) to (T, O)."""
        y = self._multiply(x)
        return y if add is None else y.add_(add)

    def _decode(self, start: int, scratch: Tensor) -> None:
        weight, end = self._weight, start + len(scratch)
        groups, packed = scratch.view(len(scratch), -1, GROUP), weight.codes[start:end]
        if weight.bits == 8:
            groups.copy_(packed.view(groups.shape))
        else:
            halves = packed.view(*groups.shape[:2], GROUP // 2)
            groups[..., : GROUP // 2] = halves & 15
            groups[..., GROUP // 2 :] = halves >> 4
            if weight.minimums is None:
                groups.sub_(8)
        groups.mul_(weight.scales[start:end].to(torch.float32).unsqueeze(-1))
        if weight.minimums is not None:
            groups.add_(weight.minimums[start:end].to(torch.float32).unsqueeze(-1))
