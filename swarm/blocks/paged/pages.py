"""Which pages belong to which sequence: integers only, no tensors.

A page is `PAGE_SLOTS` consecutive slots of the pool. The allocator owns all pages and counts, for
each, how many tables hold it; a page is free exactly when its count is zero. A page may be kept besides, to be
found again (`swarm.blocks.paged.prefixes`): that is one holder more, and a kept page without other holders is idle: it
can be given up at any time.

The free pages are kept as sorted, disjoint, non-touching runs [start, end), so a table that grows can take the very
next page and stay consecutive: attention then reads the pool through a view instead of gathering. Pages that were never
used cost no memory yet, so new ones are opened up only when those in use leave too little room.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import pairwise

from swarm.errors import Busy

PAGE_SLOTS = 16
"""Slots of a page: small enough to waste little at a sequence's end, large enough to keep tables short."""


FIRST_OPEN = 64
"""Pages that are open from the beginning."""


def pages_for(length: int) -> int:
    """Return how many pages `length` tokens take."""
    return -(-length // PAGE_SLOTS)


class PageAllocator:
    """Hands out the pages [0, num_pages) and counts their holders."""

    def __init__(self, num_pages: int) -> None:
        if num_pages < 1:
            raise ValueError(f"a pool of {num_pages} pages holds nothing: give it at least 1")
        self.num_pages = num_pages
        self._counts = [0] * num_pages
        self._runs = [(0, num_pages)]
        self._num_free = num_pages
        self._is_kept = bytearray(num_pages)
        self._num_idle = 0
        self._num_open = min(FIRST_OPEN, num_pages)  # pages from here on were never used

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return self._num_free

    @property
    def num_idle(self) -> int:
        """Kept pages that no table holds."""
        return self._num_idle

    def count(self, page: int) -> int:
        """Return how many hold `page`: tables, and one more if it is kept."""
        return self._counts[page]

    def is_kept(self, page: int) -> bool:
        """Whether `page` is kept."""
        return bool(self._is_kept[page])

    def is_idle(self, page: int) -> bool:
        """Whether `page` is kept, and held by nobody else."""
        return bool(self._is_kept[page]) and self._counts[page] == 1

    def num_gained(self, pages: Iterable[int]) -> int:
        """Return how many of `pages`, which a table holds, would be free or idle without it."""
        return sum(self._counts[page] - self._is_kept[page] == 1 for page in pages)

    def keep(self, page: int) -> None:
        """Keep a page that a table holds."""
        if self._is_kept[page]:
            raise ValueError(f"page {page} is kept already")
        self.retain([page])
        self._is_kept[page] = 1

    def give_up(self, page: int) -> None:
        """Keep `page` no longer."""
        if not self._is_kept[page]:
            raise ValueError(f"page {page} is not kept")
        self._num_idle -= self._counts[page] == 1
        self._is_kept[page] = 0
        self.release([page])

    def allocate(self, count: int, *, after: int | None = None) -> list[int]:
        """Take `count` free pages, each held once; those right after page `after` first.

        Raises:
            Busy: Fewer than `count` pages are free; none was taken.
        """
        if count > self._num_free:
            raise Busy(f"{count} KV pages wanted and {self._num_free} of {self.num_pages} free: try again later")
        taken = [] if after is None else self._take_behind(after, count)
        if len(taken) < count:
            taken += self._take_widest(count - len(taken))
        if len(taken) < count:
            taken += self._take_scattered(count - len(taken))
        return taken

    def retain(self, pages: Iterable[int]) -> None:
        """Count one more holder for each of `pages`, which must be held already."""
        for page in pages:
            if not self._counts[page]:
                raise ValueError(f"page {page} is free and cannot be shared")
            self._num_idle -= self.is_idle(page)
            self._counts[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """Count one holder less for each of `pages`; those without any become free."""
        for page in pages:
            if not self._counts[page]:
                raise ValueError(f"page {page} is free already")
            self._counts[page] -= 1
            if not self._counts[page]:
                self._give(page)
            self._num_idle += self.is_idle(page)

    def check(self, tables: Iterable[PageTable] | None = None) -> None:
        """Verify that runs and counts agree, and with `tables` that the counts are theirs.

        Raises:
            RuntimeError: Something of ours is broken; the message says what.
        """
        opened = self._num_open
        free = [page for start, end in self._runs for page in range(start, min(end, opened))]
        if free != [page for page, count in enumerate(self._counts[:opened]) if count == 0] or any(
            self._counts[opened:]
        ):
            raise RuntimeError("the free runs and the pages without holder differ")
        if sum(end - start for start, end in self._runs) != self._num_free or any(
            a[1] >= b[0] for a, b in pairwise(self._runs)
        ):
            raise RuntimeError("the free runs touch, overlap or are miscounted")
        if self._num_idle != sum(map(self.is_idle, range(opened))):
            raise RuntimeError("the idle pages are miscounted")
        if tables is None:
            return
        held = list(self._is_kept)
        for table in tables:
            if len(table.pages) != pages_for(table.length):
                raise RuntimeError(f"a table of {table.length} tokens holds {len(table.pages)} pages")
            for page in table.pages:
                held[page] += 1
        if held != self._counts:
            raise RuntimeError("the holders counted and the tables alive differ")

    def _take_behind(self, after: int, count: int) -> list[int]:
        """Take up to `count` pages right behind page `after`."""
        run = self._run_of(after + 1)
        return [] if run is None else self._take(after + 1, min(self._runs[run][1], after + 1 + count))

    def _take_widest(self, count: int) -> list[int]:
        """Take up to `count` consecutive pages where there is room to grow; open new ones if there is none."""
        start, end = self._widest()
        while end - start < count and self._num_open < self.num_pages:
            self._num_open = min(self.num_pages, self._num_open + max(FIRST_OPEN, self._num_open // 4))
            start, end = self._widest()
        # The page before a run belongs to someone who may want to grow: leave him half of the room.
        room = end - start
        if start > 0 and room >= 2 * count:
            start += room // 2
        return self._take(start, min(end, start + count))

    def _take_scattered(self, count: int) -> list[int]:
        """Take `count` pages from the longest runs: none is long enough."""
        taken: list[int] = []
        for start, end in sorted(self._runs, key=lambda run: run[0] - run[1]):
            taken += self._take(start, min(end, start + count - len(taken)))
            if len(taken) == count:
                break
        return taken

    def _widest(self) -> tuple[int, int]:
        """Return the longest run of free pages among the open ones, which may be empty."""
        start, end = max(self._runs, key=lambda run: min(run[1], self._num_open) - run[0])
        return start, max(start, min(end, self._num_open))

    def _run_of(self, page: int) -> int | None:
        index = bisect_right(self._runs, (page, self.num_pages + 1)) - 1
        return index if index >= 0 and self._runs[index][0] <= page < self._runs[index][1] else None

    def _take(self, start: int, end: int) -> list[int]:
        index = self._run_of(start)
        assert index is not None
        first, last = self._runs[index]
        self._runs[index : index + 1] = [run for run in ((first, start), (end, last)) if run[0] < run[1]]
        self._counts[start:end] = [1] * (end - start)
        self._num_free -= end - start
        self._num_open = max(self._num_open, end)
        return list(range(start, end))

    def _give(self, page: int) -> None:
        index = bisect_left(self._runs, (page, page))
        start, end, first, last = page, page + 1, index, index
        if index > 0 and self._runs[index - 1][1] == page:
            start, first = self._runs[index - 1][0], index - 1
        if index < len(self._runs) and self._runs[index][0] == page + 1:
            end, last = self._runs[index][1], index + 1
        self._runs[first:last] = [(start, end)]
        self._num_free += 1


class PageTable:
    """One sequence's pages, in order, and how many tokens they hold.

    Attributes:
        pages: Page numbers; token t lives in slot t % PAGE_SLOTS of page t // PAGE_SLOTS.
        length: Tokens held; `len(pages)` is always `pages_for(length)`.
        is_consecutive: Whether each page is the one right after its predecessor.
    """

    __slots__ = ("is_consecutive", "length", "pages")

    def __init__(self) -> None:
        self.pages: list[int] = []
        self.length = 0
        self.is_consecutive = True

    def set(self, pages: list[int], length: int) -> None:
        """Replace the pages and the length together."""
        self.pages = pages
        self.length = length
        self.is_consecutive = all(after == page + 1 for page, after in pairwise(pages))

    def slot(self, position: int) -> int:
        """Return the pool's slot of the token at `position`."""
        return self.pages[position // PAGE_SLOTS] * PAGE_SLOTS + position % PAGE_SLOTS

    def slots(self, start: int, end: int) -> list[int]:
        """Return the pool's slots of the tokens [start, end)."""
        return [self.slot(position) for position in range(start, end)]
