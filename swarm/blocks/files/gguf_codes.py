"""GGUF's simple quantised formats as our own codes, without a second quantisation (format: ggml's ggml-quants.h).

A stored group of 32 is a 16-bit float scale, in Q4_1 a minimum, and the codes; our codes lie in the same order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swarm.blocks.weights import GROUP, QuantizedWeight

OWN_BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8}
"""Formats that map, and to how many bits."""


def as_codes(raw: Tensor, kind: str, width: int) -> QuantizedWeight:
    """Return stored rows as codes; only scales and minimums are rounded, from float16 to bfloat16.

    Args:
        raw: (rows * row bytes,) uint8.
        kind: One of `OWN_BITS`.
        width: Weights in a row.
    """
    floats = 2 if kind == "Q4_1" else 1
    groups = raw.view(-1, width // GROUP, 2 * floats + GROUP * OWN_BITS[kind] // 8)
    heads = groups[..., : 2 * floats].contiguous().view(torch.float16)  # (R, G, 1 or 2)
    codes = groups[..., 2 * floats :].reshape(groups.shape[0], -1)
    if kind == "Q8_0":
        # A code of -128 would overflow the products of kernels; the format's own writer never makes one.
        codes = codes.view(torch.int8).clamp(min=-127)
    heads = heads.to(torch.bfloat16)
    minimums = heads[..., 1].contiguous() if kind == "Q4_1" else None
    return QuantizedWeight(bits=OWN_BITS[kind], codes=codes, scales=heads[..., 0].contiguous(), minimums=minimums)
