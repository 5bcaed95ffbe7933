"""Pages found again by key: what is kept, what is given up first, and that others always come first."""

from __future__ import annotations

import pytest
import torch

from swarm.blocks import PAGE_SLOTS, KVCache
from swarm.errors import Busy


def cache_of(num_pages: int) -> KVCache:
    return KVCache(num_blocks=1, num_pages=num_pages, num_kv_heads=1, head_size=1, dtype=torch.float32)


def keep(cache: KVCache, name: str, num_pages: int) -> list[bytes]:
    """Keep so many pages of a sequence that ends at once; return their keys."""
    sequence = cache.new_sequence()
    cache.prepare(sequence, 0, num_pages * PAGE_SLOTS)
    keys = [f"{name}{index}".encode() for index in range(num_pages)]
    cache.keep(sequence, 0, keys)
    cache.release(sequence)
    return keys


def found(cache: KVCache, keys: list[bytes]) -> int:
    """How many pages a sequence would begin with."""
    sequence = cache.find(keys)
    pages = len(sequence.pages)
    cache.release(sequence)
    cache.check()
    return pages


def test_pages_of_a_sequence_that_has_ended_are_found_again() -> None:
    cache = cache_of(8)
    keys = keep(cache, "a", 3)
    assert (cache.free_pages, cache.idle_pages) == (8, 3)
    sequence = cache.find([*keys, b"other"])
    assert sequence.length == 3 * PAGE_SLOTS
    assert (cache.free_pages, cache.idle_pages) == (5, 0)


def test_a_page_behind_one_that_is_missing_is_not_found() -> None:
    cache = cache_of(8)
    keys = keep(cache, "a", 3)
    assert found(cache, [b"other", *keys]) == 0
    assert found(cache, [keys[0], b"other", keys[2]]) == 1


def test_kept_pages_are_given_up_for_sequences_the_longest_unused_and_the_last_of_it_first() -> None:
    cache = cache_of(8)
    old, new = keep(cache, "old", 3), keep(cache, "new", 3)
    assert found(cache, old) == 3  # used last from now on
    sequence = cache.new_sequence()
    cache.prepare(sequence, 0, 3 * PAGE_SLOTS)  # two pages are free
    assert (found(cache, old), found(cache, new)) == (3, 2)
    cache.prepare(sequence, 0, 8 * PAGE_SLOTS)
    assert (found(cache, old), found(cache, new)) == (0, 0)
    assert (cache.free_pages, cache.idle_pages) == (0, 0)


def test_pages_that_a_sequence_uses_are_not_given_up() -> None:
    cache = cache_of(4)
    keys = keep(cache, "a", 2)
    user = cache.find(keys)
    other = cache.new_sequence()
    with pytest.raises(Busy):
        cache.prepare(other, 0, 3 * PAGE_SLOTS)
    cache.prepare(other, 0, 2 * PAGE_SLOTS)
    assert user.length == 2 * PAGE_SLOTS and found(cache, keys) == 2


def test_writing_into_a_kept_page_copies_it_first() -> None:
    cache = cache_of(4)
    keys = keep(cache, "a", 1)
    sequence = cache.find(keys)
    cache.keys[0, sequence.slots(0, PAGE_SLOTS), 0, 0] = torch.arange(float(PAGE_SLOTS))
    kept_page = sequence.pages[0]
    cache.prepare(sequence, 4, 2)
    assert sequence.pages != [kept_page]
    assert cache.keys[0, sequence.slots(0, 4), 0, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert found(cache, keys) == 1


def test_only_full_pages_can_be_kept() -> None:
    cache = cache_of(4)
    sequence = cache.new_sequence()
    cache.prepare(sequence, 0, PAGE_SLOTS + 3)
    with pytest.raises(ValueError, match="not full"):
        cache.keep(sequence, 0, [b"a", b"b"])


def test_equal_pages_of_two_sequences_are_kept_once() -> None:
    cache = cache_of(4)
    keep(cache, "a", 2)
    keep(cache, "a", 2)
    assert cache.idle_pages == 2
    cache.forget_kept()
    assert (cache.free_pages, cache.idle_pages) == (4, 0)
    cache.check()
