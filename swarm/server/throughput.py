"""How fast this machine runs these blocks: measured at start, announced to routers."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from swarm.blocks import BlockStack, Row

DECODE_STEPS = 8
PREFILL_TOKENS = 128
"""Enough to be within some percent after a warm-up, and about a quarter of a second for ten small blocks."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Tokens per second through ONE block: one token at a time, and a prompt at a time."""

    decode_per_s: float
    prefill_per_s: float


def measure(stack: BlockStack, *, threads: int) -> Throughput:
    """Time decode steps and a prefill on random activations; blocks the calling thread."""
    torch.set_num_threads(threads)
    cache = stack.new_cache(num_pages=-(-(PREFILL_TOKENS + DECODE_STEPS + 1) // 16))
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(PREFILL_TOKENS, stack.config.hidden_size, generator=generator).to(stack.dtype)
    with torch.inference_mode():
        sequence = cache.new_sequence()

        def run(position: int, length: int) -> float:
            started = time.perf_counter()
            cache.prepare(sequence, position, length)
            stack.forward(hidden[:length], [Row(sequence, position, length)], cache)
            return time.perf_counter() - started

        run(0, PREFILL_TOKENS)  # the first pass pays for caches and lazily made kernels
        prefill = run(0, PREFILL_TOKENS)
        decode = sorted(run(PREFILL_TOKENS + step, 1) for step in range(DECODE_STEPS))[DECODE_STEPS // 2]
    num_blocks = len(stack.span)
    return Throughput(num_blocks / decode, PREFILL_TOKENS * num_blocks / prefill)
