"""The cache: all or nothing, copy on write, and nothing lost under arbitrary use."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swarm.blocks import PAGE_SLOTS, KVCache, PageTable
from swarm.errors import Busy, SessionLost

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["new", "step", "fork", "release", "keep", "find"]),
        st.integers(0, 7),
        st.integers(0, 60),
        st.integers(1, 40),
    ),
    max_size=60,
)


def _cache(num_pages: int) -> KVCache:
    return KVCache(num_blocks=1, num_pages=num_pages, num_kv_heads=1, head_size=1, dtype=torch.float32)


def _write(cache: KVCache, sequence: PageTable, position: int, numbers: list[float]) -> None:
    cache.prepare(sequence, position, len(numbers))
    slots = torch.tensor(sequence.slots(position, position + len(numbers)))
    for pool in (cache.keys, cache.values):
        pool[0, slots, 0, 0] = torch.tensor(numbers)


def _held(cache: KVCache, sequence: PageTable) -> list[float]:
    slots = torch.tensor(sequence.slots(0, sequence.length), dtype=torch.int64)
    assert torch.equal(cache.keys[0, slots], cache.values[0, slots])
    return cache.keys[0, slots, 0, 0].tolist()


def _keys(numbers: list[float]) -> list[bytes]:
    """One for each full page: all numbers up to its end."""
    return [repr(numbers[:end]).encode() for end in range(PAGE_SLOTS, len(numbers) + 1, PAGE_SLOTS)]


@given(st.integers(1, 12), STEPS)
def test_every_sequence_keeps_its_own_tokens_whatever_the_others_do(
    num_pages: int, steps: list[tuple[str, int, int, int]]
) -> None:
    cache, alive, expected, stamp = _cache(num_pages), list[PageTable](), list[list[float]](), 0.0
    kept: dict[bytes, list[float]] = {}
    for action, which, position, length in steps:
        if action == "new" or not alive:
            alive.append(cache.new_sequence())
            expected.append([])
            continue
        index = which % len(alive)
        position = min(position, len(expected[index]))
        if action == "step":
            stamp += 100
            numbers = [stamp + offset for offset in range(length)]
            try:
                _write(cache, alive[index], position, numbers)
                expected[index] = expected[index][:position] + numbers
            except Busy:
                assert alive[index].length == len(expected[index])
        elif action == "fork":
            alive.append(cache.fork(alive[index], position))
            expected.append(expected[index][:position])
        elif action == "keep":
            keys = _keys(expected[index])
            cache.keep(alive[index], 0, keys)
            kept |= {key: expected[index][: PAGE_SLOTS * (i + 1)] for i, key in enumerate(keys)}
        elif action == "find" and kept:
            keys = _keys(kept[sorted(kept)[which % len(kept)]])
            alive.append(cache.find(keys))
            expected.append(kept[keys[-1]][: alive[-1].length])
        else:
            cache.release(alive.pop(index))
            expected.pop(index)
        cache.check()
        assert [_held(cache, sequence) for sequence in alive] == expected


def test_a_step_that_does_not_fit_leaves_the_sequence_as_it_was() -> None:
    cache = _cache(3)
    sequence = cache.new_sequence()
    _write(cache, sequence, 0, [1.0] * 20)
    with pytest.raises(Busy, match="4 KV pages wanted, 2 of 3 free") as caught:
        cache.prepare(sequence, 10, 60)
    assert caught.value.retry_after > 0
    assert (sequence.length, len(sequence.pages), cache.free_pages) == (20, 2, 1)


def test_pages_dropped_by_a_roll_back_serve_the_same_step() -> None:
    cache = _cache(2)
    sequence = cache.new_sequence()
    _write(cache, sequence, 0, [1.0] * 32)
    _write(cache, sequence, 16, [2.0] * 16)
    assert _held(cache, sequence) == [1.0] * 16 + [2.0] * 16


def test_a_step_beyond_what_is_held_asks_for_a_replay() -> None:
    cache = _cache(4)
    sequence = cache.new_sequence()
    cache.prepare(sequence, 0, 5)
    with pytest.raises(SessionLost, match="holds 5 tokens, not 9"):
        cache.prepare(sequence, 9, 1)
    cache.release(sequence)
    cache.release(sequence)
    with pytest.raises(SessionLost, match="released"):
        cache.prepare(sequence, 0, 1)
