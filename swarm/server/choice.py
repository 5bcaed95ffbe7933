"""What to serve: which model, which span, with how many KV pages."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import torch

from swarm.blocks import PAGE_SLOTS, Checkpoint, open_checkpoint, resolve_dtype
from swarm.blocks.files.bundled import DEFAULT_MODEL
from swarm.blocks.formats import Quant
from swarm.blocks.layouts.cuda import require_cuda
from swarm.blocks.paged.kv_cache import slot_bytes
from swarm.blocks.weights import GROUP
from swarm.directory import Directory
from swarm.errors import SwarmError, UsageError
from swarm.log import get_logger
from swarm.planning import agree, coverage
from swarm.server.capacity import WORKSPACE_BYTES, Need, num_blocks_that_fit, num_pages, require_fit
from swarm.server.config import ServerConfig
from swarm.server.free_memory import free_memory
from swarm.types import Span

logger = get_logger(__name__)

MEMORY_SHARE = 0.7
"""Of what is free: the rest is for the base process, the page cache and the machine's owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A model, opened, and what of it to serve.

    Attributes:
        checkpoint: The model.
        dtype: Of activations and cache, and of weights that are not quantised.
        quant: Of the weights.
        device: Where they are.
        span: The blocks; unless told by `--blocks`, only their number counts before placement has chosen.
        num_pages: Of KV, for a span of this length.
    """

    checkpoint: Checkpoint
    dtype: torch.dtype
    quant: Quant
    device: str
    span: Span
    num_pages: int


async def choose(config: ServerConfig, directory: Directory) -> Choice:
    """Decide what this server serves, but for where its blocks are: that is placement's affair.

    Raises:
        ModelNotFound, UnsupportedModel, CheckpointCorrupt: The model cannot be opened.
        UsageError: `--blocks` is out of the model's range.
        NotEnoughMemory: It does not fit, and `--force` was not given.
    """
    if config.model is not None:
        checkpoint = await asyncio.to_thread(open_checkpoint, config.model)
    else:
        checkpoint = await _neediest(directory)
    return fit(config, checkpoint)


def fit(config: ServerConfig, checkpoint: Checkpoint) -> Choice:
    """Decide formats, number of blocks and pages for an opened model, and say what they need and what there is.

    Raises:
        UsageError, NotEnoughMemory: As `choose`.
    """
    quant = checkpoint.resolve_quant(config.quant, config.dtype)
    dtype = resolve_dtype(config.dtype, checkpoint, quant)
    _tell_formats(checkpoint, quant)
    device = resolve_device(config.device, checkpoint)
    need = Need(
        block_bytes=checkpoint.block_bytes(dtype, quant) * (2 if device != "cpu" and quant == "int4" else 1),
        slot_bytes=slot_bytes(checkpoint.config, dtype),
        context_length=checkpoint.config.context_length,
    )
    memory = config.memory or int(_free_bytes(device) * MEMORY_SHARE)
    span = _span(config, checkpoint, need, memory)
    if not config.force:
        require_fit(need, memory, len(span))
    pages = num_pages(need, memory, len(span))
    logger.info(
        "%s of %s: %.0f MiB needed, %.0f MiB allowed: %.0f MiB of weights in %s, up to %.0f MiB of KV for %d "
        "tokens, %.0f MiB of workspace",
        f"span {span}" if isinstance(config.blocks, Span) else f"{len(span)} blocks",
        checkpoint.name,
        need.bytes_for(len(span)) / 2**20,
        memory / 2**20,
        len(span) * need.block_bytes / 2**20,
        str(dtype).removeprefix("torch.") if quant == "none" else quant,
        len(span) * pages * PAGE_SLOTS * need.slot_bytes / 2**20,
        pages * PAGE_SLOTS,
        WORKSPACE_BYTES / 2**20,
    )
    return Choice(checkpoint=checkpoint, dtype=dtype, quant=quant, device=device, span=span, num_pages=pages)


def _tell_formats(checkpoint: Checkpoint, quant: Quant) -> None:
    """Say what of the weights is not served as one would expect of `quant`."""
    if again := checkpoint.twice_quantized(quant):
        keeps = set(again).isdisjoint(checkpoint.twice_quantized(checkpoint.resolve_quant("auto", "auto")))
        logger.info(
            "%s: weights stored as %s are decoded and quantised again: %s",
            checkpoint.name,
            ", ".join(again),
            "--quant auto keeps them as they are" if keeps else "a file of the original weights is better",
        )
    if plain := checkpoint.left_plain(quant):
        logger.info(
            "%s: plain, and not %s, as their rows do not divide into groups of %d: %s",
            checkpoint.name,
            quant,
            GROUP,
            ", ".join(plain),
        )


def resolve_device(wanted: str, checkpoint: Checkpoint) -> str:
    """Return where to run `checkpoint`; "auto" is a CUDA device where there is one, and the layers are ours."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() and checkpoint.family.assemble is not None else "cpu"


def _free_bytes(device: str) -> int:
    if device == "cpu":
        return free_memory()
    require_cuda(device)
    return int(torch.cuda.mem_get_info(device)[0])


def _span(config: ServerConfig, checkpoint: Checkpoint, need: Need, memory: int) -> Span:
    num_blocks = checkpoint.config.num_blocks
    if isinstance(config.blocks, Span):
        if config.blocks.end > num_blocks:
            raise UsageError(f"--blocks {config.blocks}: {checkpoint.name} has blocks 0:{num_blocks}")
        return config.blocks
    size = (
        num_blocks_that_fit(need, memory, num_blocks, force=config.force)
        if config.blocks == "auto"
        else int(config.blocks)
    )
    if size > num_blocks:
        raise UsageError(f"--blocks {size}: {checkpoint.name} has {num_blocks} blocks")
    return Span(0, size)


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
