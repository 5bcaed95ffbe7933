"""The blocks of one span, loaded and ready to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from swarm.blocks.attention import Batch, Row
from swarm.blocks.checkpoint import Checkpoint
from swarm.blocks.config import ModelConfig
from swarm.blocks.families.family import Block
from swarm.blocks.kv_cache import KVCache
from swarm.blocks.linear import linear_factory
from swarm.errors import PromptTooLong, UsageError
from swarm.types import Span

__all__ = ["BlockStack", "Row"]


class BlockStack:
    """Consecutive blocks of one model, in one dtype.

    Attributes:
        span: Which blocks.
        dtype: Of weights, activations and cache.
        config: The model's configuration.
    """

    def __init__(self, blocks: Sequence[Block], *, span: Span, dtype: torch.dtype, config: ModelConfig) -> None:
        self.span = span
        self.dtype = dtype
        self.config = config
        self._blocks = blocks
        self._frequencies, self._scaling = config.frequencies()

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        span: Span,
        *,
        dtype: torch.dtype,
        progress: Callable[[int, int], None] | None = None,
    ) -> BlockStack:
        """Read and pack the blocks of `span`, one at a time; no other block's bytes are read.

        Args:
            checkpoint: Where they are.
            span: Which ones.
            dtype: To compute in; see `resolve_dtype`.
            progress: Called with (blocks loaded, blocks wanted) after each.

        Raises:
            UsageError: The model has no such blocks.
            CheckpointCorrupt: A tensor is missing, truncated or of the wrong shape.
        """
        config = checkpoint.config
        if span.end > config.num_blocks:
            raise UsageError(f"blocks {span} wanted, {checkpoint.name} has 0:{config.num_blocks}: choose within")
        make_linear = linear_factory(dtype)
        blocks = []
        with torch.inference_mode():
            for index in range(span.start, span.end):
                tensors = checkpoint.read_block(index, dtype=dtype)
                blocks.append(checkpoint.family.build_block(tensors, config, make_linear, dtype))
                if progress is not None:
                    progress(len(blocks), len(span))
        return cls(blocks, span=span, dtype=dtype, config=config)

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        return sum(block.weight_bytes for block in self._blocks)

    def new_cache(self, num_pages: int) -> KVCache:
        """Return an empty cache of `num_pages` pages for all blocks of the span."""
        return KVCache(
            num_blocks=len(self._blocks),
            num_pages=num_pages,
            num_kv_heads=self.config.num_kv_heads,
            head_size=self.config.head_size,
            dtype=self.dtype,
        )

    def forward(self, hidden: Tensor, rows: Sequence[Row], cache: KVCache, *, span: Span | None = None) -> Tensor:
        """Run a ragged batch through the span and keep its keys and values.

        Args:
            hidden: (T, D), any float dtype: the rows' tokens one after another.
            rows: Whose tokens they are; each prepared in `cache` (`KVCache.prepare`) beforehand. A sequence
                may be in a batch once.
            cache: Of this stack (`new_cache`).
            span: Which of our blocks to run; all by default. A route may use a part of a server's span.

        Returns:
            (T, D) in the stack's dtype.

        Raises:
            ValueError: Rows and `hidden` disagree, a row is not prepared, or `span` is not within ours; nothing was
                written.
            PromptTooLong: A row reaches beyond the model's context.
        """
        self._check(hidden, rows)
        span = span or self.span
        if not self.span.covers(span):
            raise ValueError(f"blocks {span} wanted, {self.span} loaded")
        with torch.inference_mode():
            batch = Batch.prepare(rows, self._frequencies, self._scaling, self.dtype)
            hidden = hidden.to(self.dtype)
            for index in range(span.start - self.span.start, span.end - self.span.start):
                hidden = self._blocks[index].forward(hidden, batch, cache, index)
            return hidden

    def _check(self, hidden: Tensor, rows: Sequence[Row]) -> None:
        tokens = sum(row.length for row in rows)
        if not rows or hidden.shape != (tokens, self.config.hidden_size):
            raise ValueError(f"{tokens} tokens of size {self.config.hidden_size} wanted, got {tuple(hidden.shape)}")
        if len({id(row.sequence) for row in rows}) != len(rows):
            raise ValueError("a sequence stands in the batch twice: run its chunks one after another")
        for row in rows:
            end = row.position + row.length
            if row.length < 1 or row.position < 0 or end > row.sequence.length:
                raise ValueError(f"tokens {row.position}:{end} are not prepared: call KVCache.prepare first")
            if end > self.config.context_length:
                raise PromptTooLong(
                    f"position {end} is beyond the model's {self.config.context_length} tokens of context"
                )
