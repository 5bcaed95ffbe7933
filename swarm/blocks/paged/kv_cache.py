"""The pool of keys and values of one span, and the sequences that live in it.

The pool owns two tensors and one allocator; a sequence owns nothing but page numbers. Who may write:
a page held by one sequence only. `prepare` makes that true for every slot it hands out, by copying the
partly filled page at the end if a fork still shares it; full shared pages are never written again. Full pages can be
kept, to be found again by later sequences that begin alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from swarm.blocks.config import ModelConfig
from swarm.blocks.paged.pages import PAGE_SLOTS, PageAllocator, PageTable, pages_for
from swarm.blocks.paged.prefixes import PrefixPages
from swarm.errors import Busy, SessionLost


def slot_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes of one token's keys and values in one block."""
    return 2 * config.num_kv_heads * config.head_size * dtype.itemsize


class KVCache:
    """Keys and values of `num_blocks` blocks in `num_pages` pages of PAGE_SLOTS slots.

    Attributes:
        keys: (L, P * PAGE_SLOTS, K, E), rotated keys. Native kernels lay each page out in an order of their own
            (native/src/span.h). Untouched pages cost no memory: the operating system maps them at the first write.
        values: As `keys`.
    """

    def __init__(
        self,
        *,
        num_blocks: int,
        num_pages: int,
        num_kv_heads: int,
        head_size: int,
        dtype: torch.dtype,
        device: str = "cpu",
    ) -> None:
        self._allocator = PageAllocator(num_pages)
        self._prefixes = PrefixPages(self._allocator)
        shape = (num_blocks, num_pages * PAGE_SLOTS, num_kv_heads, head_size)
        # A tensor made in inference mode could not be written outside of it, and callers come from both.
        with torch.inference_mode(False):
            self.keys = torch.empty(shape, dtype=dtype, device=device)
            self.values = torch.empty(shape, dtype=dtype, device=device)
        self._live: set[PageTable] = set()

    @property
    def num_pages(self) -> int:
        """Pages of the pool."""
        return self._allocator.num_pages

    @property
    def free_pages(self) -> int:
        """Pages that no sequence holds, those kept to be found again included."""
        return self._allocator.num_free + self._allocator.num_idle

    @property
    def idle_pages(self) -> int:
        """Pages that are held only to be found again."""
        return self._allocator.num_idle

    @property
    def num_sequences(self) -> int:
        """Sequences that are not released."""
        return len(self._live)

    def new_sequence(self) -> PageTable:
        """Return an empty sequence; it holds no pages until `prepare`."""
        sequence = PageTable()
        self._live.add(sequence)
        return sequence

    def prepare(self, sequence: PageTable, position: int, length: int) -> None:
        """Make room for the tokens [position, position + length), dropping what was held from `position` on.

        Afterwards the sequence counts these tokens as held; the next forward pass must write them.

        Raises:
            SessionLost: The sequence is released, or holds fewer than `position` tokens.
            Busy: Too few free pages. In each case the sequence stays as it was.
        """
        self._require(sequence, position)
        if length < 0:
            raise ValueError(f"cannot prepare {length} tokens")
        kept, dropped = sequence.pages[: pages_for(position)], sequence.pages[pages_for(position) :]
        is_shared = position % PAGE_SLOTS > 0 and length > 0 and self._allocator.count(kept[-1]) > 1
        wanted = pages_for(position + length) - len(kept) + is_shared
        free = self.free_pages + self._allocator.num_gained(dropped)
        if wanted > free:
            raise Busy(f"{wanted} KV pages wanted, {free} of {self.num_pages} free: try again later")
        self._allocator.release(dropped)
        if wanted > self._allocator.num_free:
            self._prefixes.evict(wanted - self._allocator.num_free)
        if is_shared:
            shared = kept.pop()
            fresh = self._allocator.allocate(wanted, after=kept[-1] if kept else None)
            self._copy(shared, fresh[0])
            self._allocator.release([shared])
        else:
            fresh = self._allocator.allocate(wanted, after=kept[-1] if kept else None)
        sequence.set(kept + fresh, position + length)

    def fork(self, sequence: PageTable, length: int | None = None) -> PageTable:
        """Return a new sequence that shares the first `length` tokens (default: all) of `sequence`.

        Raises:
            SessionLost: As `prepare`.
        """
        length = sequence.length if length is None else length
        self._require(sequence, length)
        child = self.new_sequence()
        pages = sequence.pages[: pages_for(length)]
        self._allocator.retain(pages)
        child.set(list(pages), length)
        return child

    def keep(self, sequence: PageTable, first: int, keys: Sequence[bytes]) -> None:
        """Keep full pages of `sequence`, from its page `first` on, to be found again under `keys`.

        Raises:
            ValueError: They are not full, or the sequence is released.
        """
        end = first + len(keys)
        if sequence not in self._live or end * PAGE_SLOTS > sequence.length:
            raise ValueError(f"pages {first}:{end} of a sequence of {sequence.length} tokens are not full")
        self._prefixes.keep(keys, sequence.pages[first:end])

    def find(self, keys: Sequence[bytes]) -> PageTable:
        """Return a new sequence that begins with the pages kept under the first of `keys`, as many as there are."""
        pages = self._prefixes.find(keys)
        sequence = self.new_sequence()
        self._allocator.retain(pages)
        sequence.set(pages, len(pages) * PAGE_SLOTS)
        return sequence

    def forget_kept(self) -> None:
        """Give up all kept pages."""
        self._prefixes.clear()

    def release(self, sequence: PageTable) -> None:
        """Give the sequence's pages back; releasing twice does nothing."""
        if sequence in self._live:
            self._live.remove(sequence)
            self._allocator.release(sequence.pages)
            sequence.set([], 0)

    def check(self) -> None:
        """Verify that pages and sequences agree; meant for idle moments.

        Raises:
            RuntimeError: A page is lost or held by too many: a fault of ours.
        """
        self._allocator.check(self._live)

    def _require(self, sequence: PageTable, length: int) -> None:
        if sequence not in self._live:
            raise SessionLost("the sequence was released: open it again and replay")
        if not 0 <= length <= sequence.length:
            raise SessionLost(f"the sequence holds {sequence.length} tokens, not {length}: replay from there")

    def _copy(self, source: int, target: int) -> None:
        """Copy a whole page, though not all of its slots are held: where in it they are is up to who wrote them."""
        a, b = source * PAGE_SLOTS, target * PAGE_SLOTS
        for pool in (self.keys, self.values):
            pool[:, b : b + PAGE_SLOTS] = pool[:, a : a + PAGE_SLOTS]
