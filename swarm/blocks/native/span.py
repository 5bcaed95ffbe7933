"""Consecutive decoder blocks, run by one native call per step.

`NativeSpan` packs blocks out of their parts and lends the kernels what they read and write: weights, rotation tables,
page tables, the cache, one workspace. The kernels own nothing, so everything here must outlive a call. They compute
what `swarm.blocks.decoder` computes; the residual stream stays in float32 from the first block to the last.

One thread calls at a time: workspace and step are its own.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from swarm.blocks.config import ModelConfig
from swarm.blocks.native.arena import Arena
from swarm.blocks.native.binding import library
from swarm.blocks.native.linear import Format, NativeWeight, PackedWeight
from swarm.blocks.native.rotations import Rotations
from swarm.blocks.native.structs import BlockStruct, FeedStruct, ShapeStruct, StepStruct
from swarm.blocks.paged.attention import Row
from swarm.blocks.paged.kv_cache import KVCache
from swarm.blocks.paged.pages import PAGE_SLOTS, pages_for
from swarm.blocks.parts import Affine, BlockParts
from swarm.errors import CheckpointCorrupt, UnsupportedModel

_MAX_GROUP = 64
"""Query heads per key head: the rows of one attention tile (src/span.h, MAX_ITEM_ROWS)."""

_MAX_EXPERTS = 256
"""Experts of a block (src/span.h, MOST_EXPERTS)."""

_OUTCOMES = {
    1: "it is malformed",
    2: "a page is out of range",
    3: "a position is out of range",
    4: "no room",
    5: "a shape is out of range",
}
"""What the library answers (src/span.cpp, Outcome)."""


def can_run(config: ModelConfig, dtype: torch.dtype) -> str | None:
    """Return why the native kernels cannot run this model in this dtype, or None if they can."""
    if library() is None:
        return "the native kernels are not built or not loaded"
    if dtype not in (torch.bfloat16, torch.float32):
        return f"dtype {dtype}; the native kernels have torch.bfloat16 and torch.float32"
    if config.family == "generic":
        return "its layers are transformers' own"
    if config.head_size % 2 or config.num_heads % config.num_kv_heads:
        return f"heads {config.num_heads}/{config.num_kv_heads} of size {config.head_size} do not divide evenly"
    if config.num_heads > _MAX_GROUP * config.num_kv_heads:
        return f"{config.num_heads} query heads share {config.num_kv_heads}; at most {_MAX_GROUP} share one"
    if config.activation not in ("silu", "gelu_tanh"):
        return f"activation {config.activation!r}; the native kernels have 'silu' and 'gelu_tanh'"
    if not 0 <= config.experts_per_token <= config.num_experts <= _MAX_EXPERTS:
        return f"{config.num_experts} experts, {config.experts_per_token} per token; at most {_MAX_EXPERTS}"
    return None


class NativeSpan:
    """Consecutive blocks of one model in packed weights: bfloat16, or codes of 8 or 4 bits."""

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype) -> None:
        """Begin an empty span.

        Args:
            config: The model's.
            dtype: Of what `forward` returns.

        Raises:
            UnsupportedModel: The kernels cannot run it; `can_run` says why beforehand.
        """
        if reason := can_run(config, dtype):
            raise UnsupportedModel(f"{config.family}: {reason}: run it with SWARM_KERNEL=torch")
        found = library()
        assert found is not None  # `can_run` has looked
        self._native, self._config, self._dtype = found, config, dtype
        self._blocks: list[BlockStruct] = []
        self._packed = (BlockStruct * 0)()
        self._kept: list[object] = []
        self._arena = Arena()
        self._weight_bytes = 0
        self._rotations = Rotations(config)
        self._workspace = torch.empty(0, dtype=torch.uint8)
        self._reserved = (0, 0)  # tokens and threads that the workspace was last found large enough for
        self._step = StepStruct()
        self._shape = ShapeStruct(
            hidden=config.hidden_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head=config.head_size,
            inner=config.intermediate_size,
            experts=config.num_experts,
            chosen=config.experts_per_token,
            gelu=config.activation == "gelu_tanh",
            epsilon=config.rms_eps,
            scale=config.attention_scale or config.head_size**-0.5,
            softcap=config.attention_softcap,
        )

    @property
    def num_blocks(self) -> int:
        """Blocks added so far."""
        return len(self._blocks)

    @property
    def weight_bytes(self) -> int:
        """Bytes that the packed weights, norms and biases take in memory."""
        return self._weight_bytes

    def add(self, parts: BlockParts, index: int) -> None:
        """Pack one more block at the end of the span; `parts` may be dropped afterwards.

        Args:
            parts: The block's weights; plain ones are packed as bfloat16.
            index: Which block of the model it is, for its window and rope.

        Raises:
            CheckpointCorrupt: A weight has a wrong shape; the span stays as it was.
        """
        config = self._config
        self._check_parts(parts, index)
        # In the order in which a step reads them: what is fetched ahead of one's end is the beginning of the next.
        qkv, out = self._pack(parts.qkv), self._pack(parts.out)
        feeds = (FeedStruct * len(parts.feeds))(
            *(FeedStruct(*(self._pack(affine) for affine in (feed.gate, feed.up, feed.down))) for feed in parts.feeds)
        )
        self._shape.plain_inner |= any(feed.down.format == Format.BFLOAT16 for feed in feeds)
        block = BlockStruct(
            norm=self._keep(parts.norm),
            feed_norm=self._keep(parts.feed_norm),
            after_norm=self._keep(parts.after_norm),
            after_feed_norm=self._keep(parts.after_feed_norm),
            query_norm=self._keep(parts.query_norm),
            key_norm=self._keep(parts.key_norm),
            router=self._keep(parts.router),
            feeds=feeds,
            qkv=qkv,
            out=out,
            window=config.windows[index] if config.windows else 0,
            rope=config.is_local(index),
        )
        self._kept.append(feeds)
        self._reserved = (0, 0)
        self._blocks.append(block)
        self._packed = (BlockStruct * len(self._blocks))(*self._blocks)

    def workspace_bytes(self, tokens: int, threads: int) -> int:
        """Return how much memory steps of up to `tokens` tokens take beside weights and cache."""
        return int(self._native.swarm_span_workspace(ctypes.byref(self._shape), tokens, threads))

    def forward(
        self, hidden: Tensor, rows: Sequence[Row], cache: KVCache, first: int, last: int, *, goes_on: bool = False
    ) -> Tensor:
        """Run a ragged batch through the blocks [first, last) of those added; writes their keys and values.

        Runs on as many threads as torch would use in the calling one. A token's result has the same bits on any number
        of threads, whatever travels with it, and however its prompt was cut.

        Args:
            hidden: (T, D), the rows' tokens one after another, any float dtype.
            rows: Whose tokens they are, each sequence once, prepared in `cache`.
            cache: bfloat16 or float32; its block i is our block i.
            first: First block to run.
            last: One after the last.
            goes_on: The same tokens go on through the next blocks.

        Returns:
            (T, D) in the span's dtype; with `goes_on` in float32, as the residual stream is.

        Raises:
            ValueError: Arguments disagree; nothing was written.
        """
        self._check_step(hidden, rows, cache, first, last)
        hidden = hidden if hidden.dtype == torch.bfloat16 else hidden.to(torch.float32)
        hidden = hidden.contiguous()
        output = torch.empty(hidden.shape, dtype=torch.float32 if goes_on else self._dtype)
        pages, places = array("i"), array("i")
        end = 0
        for row in rows:
            places.extend((row.position, row.length, len(pages)))
            pages.extend(row.sequence.pages[: pages_for(row.position + row.length)])
            end = max(end, row.position + row.length)
        step, keys = self._step, cache.keys
        self._rotations.lend(step, end)
        step.tokens, step.num_rows, step.num_pages = hidden.shape[0], len(rows), len(pages)
        step.first_block, step.last_block, step.pool_slots = first, last, keys.shape[1]
        step.narrow_input, step.narrow_output = hidden.dtype == torch.bfloat16, output.dtype == torch.bfloat16
        step.rows, step.pages = places.buffer_info()[0], pages.buffer_info()[0]
        step.input, step.output = hidden.data_ptr(), output.data_ptr()
        step.keys, step.values = keys.data_ptr(), cache.values.data_ptr()
        self._run(keys.dtype == torch.bfloat16)
        return output

    def _run(self, is_narrow: bool) -> None:
        threads = torch.get_num_threads()
        self._shape.narrow_cache = is_narrow
        self._reserve(self._step.tokens, threads)
        shape, step = ctypes.byref(self._shape), ctypes.byref(self._step)
        if outcome := self._native.swarm_span_run(shape, self._packed, step, threads):
            raise ValueError(f"the native span refused the step: {_OUTCOMES[outcome]}")

    def _reserve(self, tokens: int, threads: int) -> None:
        """See to a workspace that is large enough; it grows, and stays."""
        if (tokens, threads) == self._reserved:
            return
        wanted = self.workspace_bytes(tokens, threads)
        if self._workspace.numel() < wanted:
            # A tensor made in inference mode could not be written outside of it, and callers come from both.
            with torch.inference_mode(False):
                self._workspace = torch.empty(wanted, dtype=torch.uint8)  # 64-byte aligned, as all of torch's are
            self._step.workspace, self._step.workspace_bytes = self._workspace.data_ptr(), wanted
        self._reserved = (tokens, threads)

    def _pack(self, affine: Affine) -> NativeWeight:
        packed = PackedWeight(affine.weight, affine.bias, arena=self._arena)
        self._kept.append(packed)
        self._weight_bytes += packed.nbytes
        return packed.native

    def _keep(self, tensor: Tensor | None) -> int | None:
        """Return the address of a float32 copy that lives as long as the span."""
        if tensor is None:
            return None
        with torch.inference_mode(False):
            copy = tensor.detach().to(torch.float32, copy=True).contiguous()
        self._kept.append(copy)
        self._weight_bytes += copy.nbytes
        return copy.data_ptr()

    def _check_parts(self, parts: BlockParts, index: int) -> None:
        config = self._config
        hidden, inner, size = config.hidden_size, config.intermediate_size, config.head_size
        queries = config.num_heads * size
        wanted = [(parts.qkv, queries + 2 * config.num_kv_heads * size, hidden), (parts.out, hidden, queries)]
        for feed in parts.feeds:
            wanted += [(feed.gate, inner, hidden), (feed.up, inner, hidden), (feed.down, hidden, inner)]
        shapes: list[tuple[Sequence[int], tuple[int, ...]]] = [
            (affine.weight.shape, (out, width)) for affine, out, width in wanted
        ]
        shapes += [(affine.bias.shape, (out,)) for affine, out, _ in wanted if affine.bias is not None]
        norms = [(parts.norm, hidden), (parts.feed_norm, hidden), (parts.after_norm, hidden)]
        norms += [(parts.after_feed_norm, hidden), (parts.query_norm, size), (parts.key_norm, size)]
        shapes += [(norm.shape, (width,)) for norm, width in norms if norm is not None]
        if parts.router is not None:
            shapes.append((parts.router.shape, (config.num_experts, hidden)))
        for found, expected in shapes:
            if tuple(found) != expected:
                raise CheckpointCorrupt(f"block {index}: a weight of shape {tuple(found)}, {expected} wanted")
        if len(parts.feeds) != max(1, config.num_experts) or (parts.router is None) != (config.num_experts == 0):
            raise CheckpointCorrupt(f"block {index}: {len(parts.feeds)} experts, {config.num_experts} wanted")

    def _check_step(self, hidden: Tensor, rows: Sequence[Row], cache: KVCache, first: int, last: int) -> None:
        config, keys = self._config, cache.keys
        if not 0 <= first < last <= len(self._blocks):
            raise ValueError(f"blocks {first}:{last} wanted, 0:{len(self._blocks)} added")
        tokens = sum(row.length for row in rows)
        if not rows or hidden.shape != (tokens, config.hidden_size):
            raise ValueError(f"{tokens} tokens of size {config.hidden_size} wanted, got {tuple(hidden.shape)}")
        if len({id(row.sequence) for row in rows}) != len(rows):
            raise ValueError("a sequence stands in the batch twice: run its chunks one after another")
        for row in rows:
            if row.length < 1 or row.position < 0 or row.position + row.length > row.sequence.length:
                raise ValueError(f"tokens {row.position}:{row.position + row.length} are not prepared")
        if keys.dtype not in (torch.bfloat16, torch.float32) or not keys.is_contiguous():
            raise ValueError(f"a cache of {keys.dtype}; the native kernels have torch.bfloat16 and torch.float32")
        shape = (keys.shape[0], keys.shape[1] // PAGE_SLOTS * PAGE_SLOTS, config.num_kv_heads, config.head_size)
        if keys.shape != shape or cache.values.shape != shape or keys.shape[0] < last:
            raise ValueError(f"a cache of shape {tuple(keys.shape)} does not fit {last} blocks of this model")
