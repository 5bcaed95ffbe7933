"""Pages that can be found again: whole pages of sequences, by a hash of their tokens and all tokens before them.

Whoever names the hashes decides what is equal; here they are only keys. A kept page is given up, least recently used
first, when its room is needed and no sequence holds it. Of one beginning the later pages are given up first: without
the earlier ones nobody could find them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

from swarm.blocks.paged.pages import PageAllocator


class PrefixPages:
    """Keeps pages of one allocator under keys; each page under one key at most."""

    def __init__(self, allocator: PageAllocator) -> None:
        self._allocator = allocator
        self._by_key: OrderedDict[bytes, int] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        return len(self._by_key)

    def keep(self, keys: Sequence[bytes], pages: Sequence[int]) -> None:
        """Keep `pages`, consecutive ones of a sequence, under `keys`; a key that has a page already keeps that one."""
        for key, page in zip(keys, pages, strict=True):
            if key not in self._by_key and not self._allocator.is_kept(page):
                self._allocator.keep(page)
                self._by_key[key] = page
        self._touch(keys)

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """Return the pages of the first keys, up to one that is not there."""
        pages: list[int] = []
        for key in keys:
            page = self._by_key.get(key)
            if page is None:
                break
            pages.append(page)
        self._touch(keys[: len(pages)])
        return pages

    def evict(self, count: int) -> None:
        """Give up idle pages until `count` of them have become free, or none is left."""
        idle = (key for key, page in self._by_key.items() if self._allocator.is_idle(page))
        for key in list(islice(idle, count)):
            self._allocator.give_up(self._by_key.pop(key))

    def clear(self) -> None:
        """Give up all pages."""
        while self._by_key:
            self._allocator.give_up(self._by_key.popitem()[1])

    def _touch(self, keys: Sequence[bytes]) -> None:
        for key in reversed(keys):
            if key in self._by_key:
                self._by_key.move_to_end(key)
