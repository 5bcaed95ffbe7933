"""A stretch of the model's blocks, somewhere in the swarm, as a callable."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from swarm.client.cache import RemoteCache
from swarm.errors import UsageError
from swarm.types import Span


class RemoteBlocks:
    """Blocks [start, end) of a model in the swarm; slices like a list, called like a module.

    `model.blocks[3:7](hidden)` runs blocks 3 to 6 on (B, T, D) activations from their beginning,
    without a cache; forward only.
    """

    def __init__(self, span: Span, hidden_size: int, new_cache: Callable[[Span], RemoteCache]) -> None:
        self.span = span
        self._hidden_size = hidden_size
        self._new_cache = new_cache

    def __len__(self) -> int:
        return len(self.span)

    def __repr__(self) -> str:
        return f"RemoteBlocks({self.span})"

    def __getitem__(self, key: int | slice) -> RemoteBlocks:
        indices = range(self.span.start, self.span.end)
        chosen = indices[key] if isinstance(key, slice) else indices[key : key + 1 or None]
        if not chosen or chosen.step != 1:
            raise UsageError(f"blocks[{key}] of {self.span}: choose at least one block, in order and without gaps")
        return RemoteBlocks(Span(chosen[0], chosen[-1] + 1), self._hidden_size, self._new_cache)

    def __call__(self, hidden: Tensor, *, attention_mask: Tensor | None = None) -> Tensor:
        """Run the blocks on whole sequences.

        Args:
            hidden: (B, T, D), any float dtype; positions count from each row's first real token.
            attention_mask: (B, T), 0 at padding; its outputs are zeros.

        Returns:
            (B, T, D) in the dtype of `hidden`.

        Raises:
            UsageError: The shape is not (B, T, D).
            PromptTooLong: T is more than the model's context.
            BlocksMissing: Nobody serves some of the blocks.
        """
        if hidden.ndim != 3 or hidden.shape[-1] != self._hidden_size or not hidden.shape[1]:
            raise UsageError(f"hidden of shape {tuple(hidden.shape)}: (batch, tokens, {self._hidden_size}) is needed")
        shape = hidden.shape[:2]
        valid = torch.ones(shape, dtype=torch.bool) if attention_mask is None else attention_mask.to("cpu", torch.bool)
        if valid.shape != shape:
            raise UsageError(f"attention_mask of shape {tuple(valid.shape)}: {tuple(shape)} is needed")
        cache = self._new_cache(self.span)
        try:
            output = cache.advance(None, hidden.detach(), valid, keep=hidden.shape[1])
        finally:
            cache.reset()
        return output.to(hidden.device, hidden.dtype)
