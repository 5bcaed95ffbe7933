"""What to serve: which model, which span, with how many KV pages."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import psutil
import torch

from swarm.blocks import PAGE_SLOTS, Checkpoint, open_checkpoint, resolve_dtype
from swarm.blocks.bundled import DEFAULT_MODEL
from swarm.directory import Directory
from swarm.errors import SwarmError, UsageError
from swarm.log import get_logger
from swarm.planning import agree, choose_span, coverage
from swarm.server.capacity import Need, num_blocks_that_fit, num_pages, require_fit
from swarm.server.config import ServerConfig
from swarm.types import PeerId, Span, View

logger = get_logger(__name__)

MEMORY_SHARE = 0.7
"""Of what is free: the rest is for the base process, the page cache and the machine's owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A model, opened, and what of it to serve."""

    checkpoint: Checkpoint
    dtype: torch.dtype
    span: Span
    num_pages: int


async def choose(config: ServerConfig, directory: Directory, peer: PeerId) -> Choice:
    """Decide what this server serves.

    Raises:
        ModelNotFound, UnsupportedModel, CheckpointCorrupt: The model cannot be opened.
        UsageError: `--blocks` is out of the model's range.
        NotEnoughMemory: It does not fit, and `--force` was not given.
    """
    if config.model is not None:
        checkpoint = await asyncio.to_thread(open_checkpoint, config.model)
    else:
        checkpoint = await _neediest(directory)
    dtype = resolve_dtype(config.dtype, checkpoint)
    # Another checkpoint under our model's name does not cover anything for us.
    view = agree(await directory.view(checkpoint.name), checkpoint.fingerprint).view
    return _fit(config, checkpoint, dtype, view, peer)


def _fit(config: ServerConfig, checkpoint: Checkpoint, dtype: torch.dtype, view: View, peer: PeerId) -> Choice:
    model = checkpoint.config
    slot_bytes = 2 * model.num_kv_heads * model.head_size * dtype.itemsize
    need = Need(
        block_bytes=checkpoint.block_bytes(dtype), slot_bytes=slot_bytes, context_length=model.context_length
    )
    memory = config.memory or int(psutil.virtual_memory().available * MEMORY_SHARE)
    if isinstance(config.blocks, Span):
        if config.blocks.end > model.num_blocks:
            raise UsageError(f"--blocks {config.blocks}: {checkpoint.name} has blocks 0:{model.num_blocks}")
        span = config.blocks
    else:
        size = num_blocks_that_fit(need, memory, model.num_blocks) if config.blocks == "auto" else int(config.blocks)
        if size > model.num_blocks:
            raise UsageError(f"--blocks {size}: {checkpoint.name} has {model.num_blocks} blocks")
        span = choose_span(view, num_blocks=model.num_blocks, size=size, myself=peer)
    if not config.force:
        require_fit(need, memory, len(span))
    pages = num_pages(need, memory, len(span))
    logger.info(
        "span %s of %s: %.0f MiB of weights, KV for %d tokens, %.0f MiB allowed",
        span,
        checkpoint.name,
        len(span) * need.block_bytes / 2**20,
        pages * PAGE_SLOTS,
        memory / 2**20,
    )
    return Choice(checkpoint=checkpoint, dtype=dtype, span=span, num_pages=pages)


async def _neediest(directory: Directory) -> Checkpoint:
    """The swarm's model with the worst-covered block, among those whose files we can get; else the bundled one."""
    needs: list[tuple[float, str]] = []
    for entry in await directory.models():
        view = agree(await directory.view(entry.name), entry.fingerprint).view
        needs.append((min(coverage(view, entry.num_blocks)), entry.name))
    for _, name in sorted(needs):
        try:
            return await asyncio.to_thread(open_checkpoint, name)
        except SwarmError as error:
            logger.warning("model %s: the swarm serves it, but we cannot: %s", name, error)
    return await asyncio.to_thread(open_checkpoint, DEFAULT_MODEL)
