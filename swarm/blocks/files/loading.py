"""Blocks read one after another, the tensors of each by a few threads.

The next block is not read before the last one is packed: packing takes a tenth of the time, and overlapping the two
would hold another block in memory. So a server that loads takes its packed weights and one block.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from swarm.blocks.files.checkpoint import Checkpoint
from swarm.blocks.formats import Quant
from swarm.blocks.weights import Weight
from swarm.types import Span

_MAX_THREADS = 4
"""Readers of one block's tensors: more only multiply the temporaries, a block has seven large tensors."""


def read_blocks(
    checkpoint: Checkpoint, span: Span, *, dtype: torch.dtype, quant: Quant = "none"
) -> Iterator[tuple[int, dict[str, Weight]]]:
    """Yield index and tensors (`Checkpoint.read_block`) of each block of `span`; whoever packs them empties the table.

    Raises:
        UsageError, CheckpointCorrupt: As `Checkpoint.read_block`, when the faulty block's turn comes.
    """
    threads = torch.get_num_threads()
    workers = min(_MAX_THREADS, os.cpu_count() or 1)
    # The readers' own torch must stay single-threaded: libgomp counts the OpenMP threads of all pools of a process,
    # and lets each of them sleep between any two operations once there are more than cores.
    readers = ThreadPoolExecutor(workers, thread_name_prefix="reader", initializer=torch.set_num_threads, initargs=(1,))
    try:
        for index in range(span.start, span.end):
            tensors = checkpoint.read_block(index, dtype=dtype, quant=quant, pool=readers)
            yield index, tensors
            tensors.clear()
    finally:
        readers.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what a new thread starts with; the caller's own never changed
