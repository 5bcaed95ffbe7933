"""What fits: weights, KV pages and workspace against the memory allowed; pure arithmetic.

The promise behind `auto`: each of `PROMISED_SESSIONS` sessions can hold `PROMISED_TOKENS` tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.blocks import PAGE_SLOTS
from swarm.errors import NotEnoughMemory

PROMISED_SESSIONS = 4
PROMISED_TOKENS = 2048
"""Together the KV that a server promises at least: a handful of chats of ordinary length."""

WORKSPACE_BYTES = 128 * 1024 * 1024
"""Activations, the widest MLP intermediate of a prefill chunk, frames under way."""

MAX_KV_SHARE = 0.5
"""KV beyond half of the memory left after the weights would serve sessions that nobody has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one block costs.

    Attributes:
        block_bytes: Weights of a block in the format served.
        slot_bytes: Keys and values of one token in one block.
        context_length: Tokens that a session can have at most.
    """

    block_bytes: int
    slot_bytes: int
    context_length: int

    def promised_pages(self) -> int:
        """Pages that hold the promised sessions."""
        return PROMISED_SESSIONS * -(-min(PROMISED_TOKENS, self.context_length) // PAGE_SLOTS)

    def bytes_for(self, num_blocks: int) -> int:
        """Memory of `num_blocks` with the promised KV and the workspace."""
        return num_blocks * (self.block_bytes + self.promised_pages() * PAGE_SLOTS * self.slot_bytes) + WORKSPACE_BYTES


def num_blocks_that_fit(need: Need, memory: int, num_blocks: int, *, force: bool = False) -> int:
    """Return how many of the model's blocks fit in `memory` bytes, at most all, and with `force` at least one.

    Raises:
        NotEnoughMemory: Not even one.
    """
    per_block = need.bytes_for(1) - WORKSPACE_BYTES
    fitting = (memory - WORKSPACE_BYTES) // per_block
    if fitting < 1 and not force:
        raise NotEnoughMemory(_shortage(need, 1, memory))
    return min(max(int(fitting), 1), num_blocks)


def require_fit(need: Need, memory: int, num_blocks: int) -> None:
    """Check that `num_blocks` with the promised KV fit.

    Raises:
        NotEnoughMemory: They do not; the message gives need and have.
    """
    if need.bytes_for(num_blocks) > memory:
        raise NotEnoughMemory(_shortage(need, num_blocks, memory))


def num_pages(need: Need, memory: int, num_blocks: int) -> int:
    """Return how many KV pages to reserve: a share of what the weights leave, at least the promise.

    Pages cost memory only once they are written to.
    """
    left = memory - num_blocks * need.block_bytes - WORKSPACE_BYTES
    affordable = int(left * MAX_KV_SHARE) // (num_blocks * need.slot_bytes * PAGE_SLOTS)
    return max(need.promised_pages(), affordable)


def _shortage(need: Need, num_blocks: int, memory: int) -> str:
    remedy = "lower --blocks, " if num_blocks > 1 else ""
    return (
        f"{num_blocks} block(s) need {need.bytes_for(num_blocks) / 2**20:.0f} MiB (weights "
        f"{num_blocks * need.block_bytes / 2**20:.0f} MiB, the rest KV and workspace), {memory / 2**20:.0f} MiB are "
        f"allowed: raise --memory, {remedy}or add --force"
    )
