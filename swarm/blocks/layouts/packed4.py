"""torch's own 4-bit layout ("tinygemm"), on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor

from swarm.blocks.layouts.plain import bias_bytes
from swarm.blocks.weights import GROUP, QuantizedWeight


class Packed4Linear:
    """torch's own 4-bit layout and op: bfloat16 activations, and equal bits for any number of rows."""

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None) -> None:
        packed, scales_zeros = tinygemm_parts(weight)
        self._packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(packed, 1)
        self._scales_zeros, self._bias = scales_zeros, bias

    @staticmethod
    def takes(weight: QuantizedWeight) -> bool:
        """Whether the op does: its outputs come in sixteens."""
        return weight.bits == 4 and weight.shape[0] % 16 == 0

    @property
    def weight_bytes(self) -> int:
        """Bytes that weight and bias take in memory."""
        return self._packed.nbytes + self._scales_zeros.nbytes + bias_bytes(self._bias)

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return x W^T + bias (+ add): (T, I) to (T, O)."""
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x.contiguous(), self._packed, GROUP, self._scales_zeros)
        if self._bias is not None:
            y.add_(self._bias)
        return y if add is None else y.add_(add)


def tinygemm_parts(weight: QuantizedWeight) -> tuple[Tensor, Tensor]:
    """Return a 4-bit weight as torch's packing ops want it: codes (O, I) int32, scales and zeros (I / 32, O, 2).

    There a weight is scale * (code - 8) + zero.
    """
    rows, width = weight.shape
    halves = weight.codes.view(rows, -1, GROUP // 2)
    codes = torch.cat((halves & 15, halves >> 4), dim=-1).view(rows, width).to(torch.int32)
    wide = weight.with_minimums()
    assert wide.minimums is not None
    zeros = (wide.minimums.to(torch.float32) + 8 * wide.scales.to(torch.float32)).to(torch.bfloat16)
    return codes, torch.stack((wide.scales.t(), zeros.t()), dim=-1).contiguous()
