"""Linear layers: one small seam behind which weights are packed for the kernel that runs them.

Which layout wins depends on the machine, and was measured (decode and prefill, one and two threads):

- float32: oneDNN's packed layout beats `F.linear` at nearly every number of tokens, most at 2 to 16, and uses all
  threads for one token, where `F.linear` runs on one.
- bfloat16, float16 where the CPU computes in them (AVX512 and up): the same layout, 1.4 to 4 times faster at one token.
- bfloat16, float16 elsewhere (AVX2): one token is fast in `F.linear` (a matrix-vector kernel that reads half the
  bytes), more are slower than float32 by a factor of 4; so those are widened in slices and multiplied in float32.

All of that is for machines without the native kernels (`swarm.blocks.native`), which run bfloat16 and the quantised
formats faster, and one row's bits whatever its company. Without them quantised weights are multiplied by torch's own
4-bit op, or decoded in slices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from swarm.blocks.layouts.cuda import cuda_factory
from swarm.blocks.layouts.packed4 import Packed4Linear
from swarm.blocks.layouts.plain import PackedLinear, PlainLinear
from swarm.blocks.layouts.sliced import DecodingLinear, WideningLinear
from swarm.blocks.native import NativeLinear, kernel_name
from swarm.blocks.native.binding import TORCH
from swarm.blocks.weights import Weight


class Linear(Protocol):
    """A linear layer whose weight may have any layout."""

    @property
    def weight_bytes(self) -> int:
        """Bytes that weight and bias take in memory."""
        ...

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return x W^T + bias (+ add): (T, I) to (T, O)."""
        ...


LinearFactory = Callable[[Weight, Tensor | None], Linear]
"""Packs a weight (O, I) and a bias (O,) or None, both already in the dtype to compute in, or quantised."""


def linear_factory(dtype: torch.dtype, device: str = "cpu") -> LinearFactory:
    """Return what packs weights in the fastest layout that this machine has.

    Args:
        dtype: Of activations.
        device: "cpu", or a CUDA device's name.

    Raises:
        UsageError: The device is not there.
    """
    if torch.device(device).type == "cuda":
        return cuda_factory(dtype, device)
    is_native = kernel_name() != TORCH and dtype != torch.float16
    plain: Callable[[Tensor, Tensor | None], Linear]
    if is_native and dtype == torch.bfloat16:
        plain = NativeLinear
    elif _can_pack(dtype):
        plain = PackedLinear
    else:
        plain = PlainLinear if dtype == torch.float32 else WideningLinear

    def make(weight: Weight, bias: Tensor | None) -> Linear:
        if isinstance(weight, Tensor):
            return plain(weight, bias)
        if is_native:
            return NativeLinear(weight, bias)
        if dtype == torch.bfloat16 and Packed4Linear.takes(weight):
            return Packed4Linear(weight, bias)
        return DecodingLinear(weight, bias)

    return make


def _can_pack(dtype: torch.dtype) -> bool:
    """Try it: the ops are not public, and refuse dtypes that the CPU lacks."""
    try:
        with torch.inference_mode():
            layer = PackedLinear(torch.eye(16, dtype=dtype), None)
            x = torch.ones(1, 16, dtype=dtype)
            return bool(torch.equal(layer(x, add=x), x + x))
    except (RuntimeError, AttributeError):
        return False
