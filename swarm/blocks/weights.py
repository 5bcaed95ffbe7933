"""Weights as blocks hold them before they are packed: plain numbers, or codes with a scale per group.

The canonical form of a quantised weight does not depend on the device that will run it: out-major
codes, and for each output and each `GROUP` consecutive inputs one bfloat16 scale (and minimum).
Packing for a kernel happens at load, in `swarm.blocks.linear` and `swarm.blocks.native`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

GROUP = 32
"""Weights that share a scale: divides every width in use, and costs half a bit each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedWeight:
    """A weight matrix (O, I) in 8 or 4 bits.

    Attributes:
        bits: 8 or 4.
        codes: At 8 bits (O, I) int8, -127 to 127. At 4 bits (O, I / 2) uint8, codes 0 to 15: byte j of a group of 32
            holds weight j in its low half and weight j + 16 in its high half, as in ggml's Q4_0 and Q4_1.
        scales: (O, I / 32) bfloat16.
        minimums: (O, I / 32) bfloat16; None if symmetric. A weight is scale * code + minimum; symmetric ones are
            scale * code at 8 bits, and scale * (code - 8) at 4.
    """

    bits: int
    codes: Tensor
    scales: Tensor
    minimums: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """(O, I), as of the plain matrix."""
        return torch.Size((self.codes.shape[0], self.scales.shape[1] * GROUP))

    @property
    def nbytes(self) -> int:
        """Bytes that codes, scales and minimums take."""
        return self.codes.nbytes + self.scales.nbytes + (0 if self.minimums is None else self.minimums.nbytes)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """Return the plain matrix (O, I): what every kernel is measured against."""
        rows, width = self.shape
        if self.bits == 8:
            codes = self.codes.view(rows, -1, GROUP).to(torch.float32)
        else:
            packed = self.codes.view(rows, -1, GROUP // 2)
            codes = torch.cat((packed & 15, packed >> 4), dim=-1).to(torch.float32)
            if self.minimums is None:
                codes -= 8
        numbers = codes * self.scales.to(torch.float32).unsqueeze(-1)
        if self.minimums is not None:
            numbers += self.minimums.to(torch.float32).unsqueeze(-1)
        return numbers.view(rows, width).to(dtype)

    def by_rows(self, change: Callable[[Tensor], Tensor]) -> QuantizedWeight:
        """Return the weight with `change`, which may choose or reorder rows, done to all that a row consists of."""
        minimums = None if self.minimums is None else change(self.minimums)
        return replace(self, codes=change(self.codes), scales=change(self.scales), minimums=minimums)

    def with_minimums(self) -> QuantizedWeight:
        """Return the same numbers with minimums: a symmetric 4-bit weight gets -8 scales, which is exact.

        Raises:
            ValueError: Symmetric 8-bit codes have no such form.
        """
        if self.minimums is not None:
            return self
        if self.bits != 4:
            raise ValueError(f"symmetric {self.bits}-bit codes have no minimums")
        return replace(self, minimums=self.scales * -8)


Weight = Tensor | QuantizedWeight
"""A matrix (O, I): plain in the dtype to compute in, or quantised."""


def stack(weights: Sequence[Weight]) -> Weight:
    """Put matrices of one width and one format under each other, as for q, k and v.

    Symmetric and other 4-bit weights stack, as such with minimums: GGUF files mix Q4_0 and Q4_1.

    Raises:
        ValueError: Their formats differ otherwise.
    """
    if len(weights) == 1:
        return weights[0]
    plain = [weight for weight in weights if isinstance(weight, Tensor)]
    if len(plain) == len(weights):
        return torch.cat(plain)
    quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
    if plain or len({weight.bits for weight in quantized}) > 1:
        raise ValueError("weights of different formats do not stack")
    if len({weight.minimums is None for weight in quantized}) > 1:
        quantized = [weight.with_minimums() for weight in quantized]
    minimums = [weight.minimums for weight in quantized if weight.minimums is not None]
    return QuantizedWeight(
        bits=quantized[0].bits,
        codes=torch.cat([weight.codes for weight in quantized]),
        scales=torch.cat([weight.scales for weight in quantized]),
        minimums=torch.cat(minimums) if minimums else None,
    )
