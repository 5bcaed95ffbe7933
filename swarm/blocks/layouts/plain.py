"""Plain weights: as they are, and in oneDNN's own order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class PlainLinear:
    """The weight as it is, run by torch: the specification of every other layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    @property
    def weight_bytes(self) -> int:
        """Bytes that weight and bias take in memory."""
        return self._weight.nbytes + bias_bytes(self._bias)

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return x W^T + bias (+ add): (T, I) to (T, O)."""
        y = F.linear(x, self._weight, self._bias)
        return y if add is None else y.add_(add)


class PackedLinear:
    """oneDNN's own order of the weight; the dense weight is not kept."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._bytes = weight.nbytes + bias_bytes(bias)
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


def bias_bytes(bias: Tensor | None) -> int:
    """Return the bytes that a bias takes, if there is one."""
    return 0 if bias is None else bias.nbytes
