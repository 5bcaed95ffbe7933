"""What `forward` is given, checked against what the cache holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from swarm.client.cache import RemoteCache
from swarm.errors import UsageError


def refuse_hidden_outputs(options: dict[str, Any]) -> None:
    """Raise UsageError for outputs that remote blocks do not send."""
    for name in ("output_attentions", "output_hidden_states"):
        if options.get(name):
            raise UsageError(f"{name}: not available from remote blocks; model.blocks[i:j](hidden) gives hidden states")


def valid_tokens(mask: Tensor | None, cache: RemoteCache, embeds: Tensor) -> Tensor:
    """Return which of the new tokens are real, (B, T); UsageError if the mask does not fit the cache."""
    batch, tokens = embeds.shape[:2]
    if mask is None:
        return torch.ones(batch, tokens, dtype=torch.bool)
    held = cache.get_seq_length()
    if mask.ndim != 2 or mask.shape != (batch, held + tokens):
        raise UsageError(f"attention_mask of shape {tuple(mask.shape)}: {(batch, held + tokens)} is needed")
    real = mask.to("cpu", torch.bool)
    if held and not torch.equal(real[:, :held], cache.valid):
        raise UsageError("attention_mask differs from the one that the held tokens were computed with")
    return real[:, held:]


def positions_after(cache: RemoteCache, valid: Tensor) -> Tensor:
    """Return the new tokens' positions, (B, T); those of padding mean nothing."""
    held = cache.valid.sum(1, keepdim=True) if cache.get_seq_length() else torch.zeros(len(valid), 1, dtype=torch.long)
    return (held + valid.long().cumsum(1) - 1).clamp(min=0)


def check_positions(position_ids: Tensor | None, expected: Tensor, valid: Tensor) -> None:
    """Raise UsageError if positions are given that do not follow from the mask."""
    if position_ids is None:
        return
    given = position_ids.to("cpu").expand(len(valid), -1)[:, -valid.shape[1] :]
    if given.shape != expected.shape or not torch.equal(given[valid], expected[valid]):
        raise UsageError("position_ids that skip or repeat positions are not served; leave them out")
