"""Which dtype a span computes in."""

from __future__ import annotations

import torch

from swarm.blocks.files.checkpoint import Checkpoint
from swarm.blocks.formats import Quant
from swarm.errors import UsageError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_dtype(name: str, checkpoint: Checkpoint, quant: Quant = "none") -> torch.dtype:
    """Return the dtype that a flag names; "auto" is float32 for plain float32 weights, and bfloat16 for all others.

    bfloat16 reads half the bytes, which is what decoding costs: on a CPU with 16-bit arithmetic and on one without (see
    `swarm.blocks.linear`). It is "auto" for float16 checkpoints too, whose activations may not overflow then.

    Raises:
        UsageError: An unknown name.
    """
    if name in _DTYPES:
        return _DTYPES[name]
    if name != "auto":
        raise UsageError(f"dtype {name!r} is unknown: choose auto, {', '.join(_DTYPES)}")
    if quant == "none" and checkpoint.config.stored_dtype == "float32":
        return torch.float32
    return torch.bfloat16
