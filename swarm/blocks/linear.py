"""Linear layers: one small seam behind which weights are packed for the kernel that runs them.

Which layout wins depends on the machine, and was measured (decode and prefill, one and two threads):

- float32: oneDNN's packed layout beats `F.linear` at nearly every number of tokens, most at 2 to 16, and uses all
  threads for one token, where `F.linear` runs on one.
- bfloat16, float16 where the CPU computes in them (AVX512 and up): the same layout, 1.4 to 4 times faster at one token.
- bfloat16, float16 elsewhere (AVX2): one token is fast in `F.linear` (a matrix-vector kernel that reads half the
  bytes), more are slower than float32 by a factor of 4; so those are widened in slices and multiplied in float32.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Linear(Protocol):
    """A linear layer whose weight may have any layout."""

    @property
    def weight_bytes(self) -> int:
        """Bytes that weight and bias take in memory."""
        ...

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return x W^T + bias (+ add): (T, I) to (T, O)."""
        ...


LinearFactory = Callable[[Tensor, Tensor | None], Linear]
"""Packs a weight (O, I) and a bias (O,) or None, both already in the dtype to compute in."""


class PlainLinear:
    """The weight as it is, run by torch: the specification of every other layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    @property
    def weight_bytes(self) -> int:
        """Bytes that weight and bias take in memory."""
        return self._weight.nbytes + _bias_bytes(self._bias)

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return x W^T + bias (+ add): (T, I) to (T, O)."""
        y = F.linear(x, self._weight, self._bias)
        return y if add is None else y.add_(add)


class PackedLinear:
    """oneDNN's own order of the weight; the dense weight is not kept."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._bytes = weight.nbytes + _bias_bytes(bias)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self._bias = bias
        self._run = torch.ops.mkldnn._linear_pointwise.default
        self._run_and_add = torch.ops.mkldnn._linear_pointwise.binary

    @property
    def weight_bytes(self) -> int:
        """Bytes that weight and bias take in memory."""
        return self._bytes

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return x W^T + bias (+ add): (T, I) to (T, O)."""
        if add is None:
            return self._run(x, self._packed, self._bias, "none", [], "")  # type: ignore[no-any-return]
        return self._run_and_add(x, add, self._packed, self._bias, "add")  # type: ignore[no-any-return]


class WideningLinear:
    """A 16-bit weight on a CPU without 16-bit arithmetic."""

    _MAX_NARROW_ROWS = 2
    """Tokens up to which torch's 16-bit kernel, whose time grows with each token, beats widening."""

    _SLICE_NUMBERS = 1 << 20
    """Of the float32 scratch: 4 MiB stay in the cache between widening and multiplying."""

    _scratch = threading.local()

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight.contiguous(), bias

    @property
    def weight_bytes(self) -> int:
        """Bytes that weight and bias take in memory."""
        return self._weight.nbytes + _bias_bytes(self._bias)

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return x W^T + bias (+ add): (T, I) to (T, O)."""
        y = F.linear(x, self._weight, self._bias) if x.shape[0] <= self._MAX_NARROW_ROWS else self._widened(x)
        return y if add is None else y.add_(add)

    def _widened(self, x: Tensor) -> Tensor:
        (rows, width), wide = self._weight.shape, x.to(torch.float32)
        y = torch.empty(x.shape[0], rows)
        step = max(1, self._SLICE_NUMBERS // width)
        scratch = self._borrow(min(step, rows) * width)
        for start in range(0, rows, step):
            part = self._weight[start : start + step]
            dense = scratch[: part.numel()].view(part.shape).copy_(part)
            torch.mm(wide, dense.t(), out=y[:, start : start + step])
        return (y if self._bias is None else y.add_(self._bias)).to(x.dtype)

    def _borrow(self, numbers: int) -> Tensor:
        scratch: Tensor | None = getattr(self._scratch, "tensor", None)
        if scratch is None or scratch.numel() < numbers:
            # A tensor made in inference mode could not be written outside of it, and callers come from both.
            with torch.inference_mode(False):
                scratch = self._scratch.tensor = torch.empty(numbers)
        return scratch


def linear_factory(dtype: torch.dtype) -> LinearFactory:
    """Return the fastest layout that this machine has for `dtype`."""
    if _can_pack(dtype):
        return PackedLinear
    return PlainLinear if dtype == torch.float32 else WideningLinear


def _can_pack(dtype: torch.dtype) -> bool:
    """Try it: the ops are not public, and refuse dtypes that the CPU lacks."""
    try:
        with torch.inference_mode():
            layer = PackedLinear(torch.eye(16, dtype=dtype), None)
            x = torch.ones(1, 16, dtype=dtype)
            return bool(torch.equal(layer(x, add=x), x + x))
    except (RuntimeError, AttributeError):
        return False


def _bias_bytes(bias: Tensor | None) -> int:
    return 0 if bias is None else bias.nbytes
