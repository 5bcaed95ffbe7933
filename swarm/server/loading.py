"""Reading and packing a span, on a thread of its own; what goes wrong there becomes an error of ours."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

import torch

from swarm.blocks import BlockStack, KVCache
from swarm.blocks.progress import progress
from swarm.errors import CheckpointCorrupt, NotEnoughMemory
from swarm.log import get_logger
from swarm.server.choice import Choice

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A span in memory: the blocks, room for its sessions, and the digest of each block as it is in the files."""

    stack: BlockStack
    cache: KVCache
    digests: tuple[str, ...]


class _GivenUp(Exception):
    """Nobody waits for this span any more. Never leaves the thread that loads."""


async def load(choice: Choice) -> Loaded:
    """Load what was chosen.

    Raises:
        CheckpointCorrupt: The files cannot be read.
        NotEnoughMemory: The machine has less memory than we were allowed.

    Cancelled: the thread ends after the block that it is at.
    """
    given_up = threading.Event()
    try:
        return await asyncio.to_thread(_load, choice, given_up)
    except OSError as error:
        raise CheckpointCorrupt(f"blocks {choice.span} of {choice.checkpoint.name} cannot be read: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):  # how torch says it, on any device
            raise
        text = f"this machine has no memory left for blocks {choice.span} of {choice.checkpoint.name}: lower --memory"
        raise NotEnoughMemory(text) from error
    finally:
        given_up.set()


def _load(choice: Choice, given_up: threading.Event) -> Loaded:
    # Of threads that start OpenMP's, there may be one: the compute thread. See `swarm.server.server`.
    torch.set_num_threads(1)
    with progress(f"loading {choice.span}", len(choice.span), "block") as told:

        def show(done: int, wanted: int) -> None:
            if given_up.is_set():
                raise _GivenUp
            told(done)

        stack = BlockStack.load(
            choice.checkpoint,
            choice.span,
            dtype=choice.dtype,
            quant=choice.quant,
            device=choice.device,
            progress=show,
        )
    logger.info(
        "span %s of %s: %.0f MiB of packed weights, run by %s",
        choice.span,
        choice.checkpoint.name,
        stack.weight_bytes / 2**20,
        f"{stack.kernel} ({reason})" if (reason := stack.why_not_native) else stack.kernel,
    )
    blocks = range(choice.span.start, choice.span.end)
    digests = tuple(choice.checkpoint.block_digest(block) for block in blocks)
    return Loaded(stack, stack.new_cache(choice.num_pages), digests)
