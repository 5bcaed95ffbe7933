"""The fast paths of attention against the plain ones, and that they are taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from swarm.blocks import KVCache, PageTable, Row
from swarm.blocks.paged import attention as subject
from swarm.blocks.paged.attention import Batch, attend

FREQUENCIES = 1.0 / (100.0 ** (torch.arange(0, 16, 2) / 16))


def _cache(num_pages: int = 16) -> KVCache:
    cache = KVCache(num_blocks=1, num_pages=num_pages, num_kv_heads=2, head_size=16, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for pool in (cache.keys, cache.values):
        pool.normal_(generator=generator)
    return cache


def _sequence(cache: KVCache, length: int) -> PageTable:
    sequence = cache.new_sequence()
    cache.prepare(sequence, 0, length)
    return sequence


def _queries(tokens: int) -> torch.Tensor:
    return torch.randn(tokens, 6, 16, generator=torch.Generator().manual_seed(1))


def _explicit(queries: torch.Tensor, cache: KVCache, row: Row) -> torch.Tensor:
    """Attention written out, token by token and head by head."""
    out = []
    for offset in range(row.length):
        slots = row.sequence.slots(0, row.position + offset + 1)
        for head in range(6):
            keys, values = cache.keys[0][slots, head // 3], cache.values[0][slots, head // 3]
            out.append(torch.softmax(keys @ queries[offset, head] / 4.0, 0) @ values)
    return torch.cat(out).view(row.length, -1)


@pytest.mark.parametrize(("position", "length"), [(0, 1), (0, 40), (39, 1), (16, 24), (3, 2)])
@pytest.mark.parametrize("gather", [False, True])
def test_each_token_sees_exactly_itself_and_what_was_before(position: int, length: int, gather: bool) -> None:
    cache = _cache()
    row = Row(_sequence(cache, position + length), position, length)
    batch = Batch([row], [(FREQUENCIES, 1.0)], torch.float32, gather=gather)
    queries = _queries(length)
    ours = attend(queries, cache.keys[0], cache.values[0], batch)
    torch.testing.assert_close(ours, _explicit(queries, cache, row), atol=1e-5, rtol=0)


def test_consecutive_pages_are_read_through_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, seen = _cache(), []

    def spy(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append((keys.data_ptr(), keys.untyped_storage().data_ptr()))
        return original(queries, keys, values, **options)

    original = subject.F.scaled_dot_product_attention
    monkeypatch.setattr(subject.F, "scaled_dot_product_attention", spy)
    for length in (1, 3):
        row = Row(_sequence(cache, 35), 35 - length, length)
        for gather in (False, True):
            batch = Batch([row], [(FREQUENCIES, 1.0)], torch.float32, gather=gather)
            attend(_queries(length), cache.keys[0], cache.values[0], batch)
    pool = cache.keys.untyped_storage().data_ptr()
    assert [storage == pool for _, storage in seen] == [True, False, True, False]


def test_scattered_pages_are_gathered() -> None:
    cache = _cache(4)
    first, second = _sequence(cache, 16), _sequence(cache, 16)
    for length in (32, 48):
        cache.prepare(first, length - 16, 16)
    assert not first.is_consecutive
    row = Row(first, 47, 1)
    batch = Batch([row], [(FREQUENCIES, 1.0)], torch.float32)
    assert isinstance(batch.reaches()[0].slots, torch.Tensor)
    queries = _queries(1)
    ours = attend(queries, cache.keys[0], cache.values[0], batch)
    torch.testing.assert_close(ours, _explicit(queries, cache, row), atol=1e-5, rtol=0)
    cache.release(second)


def test_one_token_gives_the_bits_of_the_plain_way() -> None:
    cache = _cache()
    row = Row(_sequence(cache, 50), 49, 1)
    batch = Batch([row], [(FREQUENCIES, 1.0)], torch.float32)
    queries = _queries(1)
    keys, values = (pool[0][row.sequence.slots(0, 50)].transpose(0, 1)[None] for pool in (cache.keys, cache.values))
    plain = subject.attend_many(queries, keys, values, batch.reaches()[0])
    torch.testing.assert_close(attend(queries, cache.keys[0], cache.values[0], batch), plain, atol=1e-6, rtol=0)


def _windowed(
    queries: torch.Tensor, cache: KVCache, row: Row, *, window: int, scale: float, cap: float
) -> torch.Tensor:
    """As `_explicit`, with window, scale and soft cap."""
    out = []
    for offset in range(row.length):
        end = row.position + offset + 1
        slots = row.sequence.slots(max(0, end - window) if window else 0, end)
        for head in range(6):
            keys, values = cache.keys[0][slots, head // 3], cache.values[0][slots, head // 3]
            scores = keys @ queries[offset, head] * scale
            scores = cap * torch.tanh(scores / cap) if cap else scores
            out.append(torch.softmax(scores, 0) @ values)
    return torch.cat(out).view(row.length, -1)


@pytest.mark.parametrize(("position", "length"), [(0, 1), (0, 40), (39, 1), (16, 24), (3, 2), (0, 5)])
@pytest.mark.parametrize("window", [0, 1, 5, 17, 100])
@pytest.mark.parametrize("cap", [0.0, 0.7])
@pytest.mark.parametrize("gather", [False, True])
def test_a_token_sees_its_window_through_cap_and_scale(
    position: int, length: int, window: int, cap: float, gather: bool
) -> None:
    cache = _cache()
    row = Row(_sequence(cache, position + length), position, length)
    other = Row(_sequence(cache, 3), 1, 2)
    batch = Batch([row, other], [(FREQUENCIES, 1.0)], torch.float32, gather=gather)
    queries = _queries(length + 2)
    ours = attend(queries, cache.keys[0], cache.values[0], batch, window=window, scale=0.3, softcap=cap)
    options = {"window": window, "scale": 0.3, "cap": cap}
    expected = [
        _windowed(queries[:length], cache, row, **options),
        _windowed(queries[length:], cache, other, **options),
    ]
    torch.testing.assert_close(ours, torch.cat(expected), atol=1e-5, rtol=0)


def test_a_window_reads_no_more_keys_than_it_must() -> None:
    cache = _cache()
    row = Row(_sequence(cache, 60), 50, 10)
    batch = Batch([row], [(FREQUENCIES, 1.0)], torch.float32)
    assert [len(batch.reaches(window)[0].slots) for window in (0, 1, 7, 51, 60)] == [60, 10, 16, 60, 60]
    assert batch.reaches(7) is batch.reaches(7)


def test_blocks_with_a_window_rotate_by_their_own_rope_where_there_is_one() -> None:
    cache = _cache()
    row = Row(_sequence(cache, 8), 0, 8)
    x = _queries(8)
    both = Batch([row], [(FREQUENCIES, 1.0), (FREQUENCIES / 4, 1.0)], torch.float32)
    slow = Batch([row], [(FREQUENCIES / 4, 1.0)], torch.float32)
    assert torch.equal(both.rotation(local=True).apply(x), slow.rotation().apply(x))
    assert torch.equal(slow.rotation(local=True).apply(x), slow.rotation().apply(x))
    assert not torch.equal(both.rotation().apply(x), slow.rotation().apply(x))
