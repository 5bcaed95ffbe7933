"""Memory for packed weights: one piece behind the other, aligned, and alive as long as a piece is."""

from __future__ import annotations

import gc

from swarm.blocks.native.arena import Arena


def test_pieces_stand_behind_each_other_on_lines_of_64_bytes() -> None:
    arena = Arena()
    first, second, third = arena.take(100), arena.take(64), arena.take(1)
    assert first.data_ptr() % (2 << 20) == 0  # a chunk begins with a large page
    assert [piece.data_ptr() - first.data_ptr() for piece in (second, third)] == [128, 192]
    assert [piece.numel() for piece in (first, second, third)] == [100, 64, 1]


def test_a_piece_larger_than_a_chunk_has_one_of_its_own() -> None:
    arena = Arena(chunk_bytes=4096)
    small, large = arena.take(64), arena.take(10000)
    assert large.numel() == 10000 and large.data_ptr() % 64 == 0
    large.fill_(7)
    small.fill_(1)
    assert int(large.long().sum()) == 70000


def test_a_piece_keeps_its_memory_when_the_arena_is_gone() -> None:
    piece = Arena(chunk_bytes=0).take(1000).fill_(3)
    gc.collect()
    assert piece.tolist() == [3] * 1000
