"""Memory for packed weights: one after another, in pages as large as the system gives.

A step reads all weights of a span from end to end. In pages of 4 KiB half of its time may go into looking pages up, and
a small matrix by itself never gets larger ones.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

_CHUNK_BYTES = 64 << 20
"""What is asked for at once. What is never written to takes no memory."""

_PAGE_BYTES = 2 << 20
"""Of the larger pages; a chunk begins with one."""

_LINE_BYTES = 64


class Arena:
    """Gives out pieces of memory that are never taken back one by one: a chunk goes when its last piece does."""

    def __init__(self, chunk_bytes: int = _CHUNK_BYTES) -> None:
        self._chunk_bytes = chunk_bytes
        self._chunk = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def take(self, num_bytes: int) -> Tensor:
        """Return (num_bytes,) uint8 at a multiple of 64 bytes, right behind the piece before where that is possible."""
        if self._used + num_bytes > self._chunk.numel():
            self._chunk, self._used = _map(max(num_bytes, self._chunk_bytes)), 0
        piece = self._chunk[self._used : self._used + num_bytes]
        self._used += -(-num_bytes // _LINE_BYTES) * _LINE_BYTES
        return piece


def _map(num_bytes: int) -> Tensor:
    """Return (num_bytes,) uint8 that begins with a larger page and, if the system has such, is made of them."""
    memory = mmap.mmap(-1, num_bytes + _PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)  # keeps the mapping alive
    start = -whole.data_ptr() % _PAGE_BYTES
    return whole[start : start + num_bytes]
