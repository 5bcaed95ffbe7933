"""Cutting steps: nothing is lost, doubled or reordered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.client.chunks import split_rows
from swarm.wire import Row


@st.composite
def steps(draw: st.DrawFn) -> list[Row]:
    rows = []
    for number in range(draw(st.integers(1, 5))):
        length = draw(st.integers(0, 12))
        source = draw(st.integers(0, 4))
        rows.append(Row(number, source, draw(st.integers(0, 20)), length, draw(st.integers(0, length))))
    return rows


@given(steps(), st.integers(1, 15))
def test_the_chunks_together_are_the_step(rows: list[Row], max_tokens: int) -> None:
    chunks = split_rows(rows, max_tokens)
    offsets = [sum(row.length for row in rows[:index]) for index in range(len(rows))]
    for index, row in enumerate(rows):
        pieces = [piece for chunk in chunks for piece in chunk if piece.index == index]
        assert [piece.row.sequence for piece in pieces] == [row.sequence] * len(pieces)
        # Positions and places in the step follow on each other, from the row's first token to its last.
        ends = [0]
        for piece in pieces:
            assert piece.row.position == row.position + ends[-1]
            assert (piece.start, piece.end) == (offsets[index] + ends[-1], offsets[index] + ends[-1] + piece.row.length)
            ends.append(ends[-1] + piece.row.length)
        assert ends[-1] == row.length
        kept = [t for p in pieces for t in range(p.end - p.row.keep, p.end)]
        assert kept == list(range(offsets[index] + row.length - row.keep, offsets[index] + row.length))


@given(steps(), st.integers(1, 15))
def test_each_chunk_keeps_the_budget_and_names_a_row_once(rows: list[Row], max_tokens: int) -> None:
    chunks = split_rows(rows, max_tokens)
    assert len(chunks) == max(1, -(-sum(row.length for row in rows) // max_tokens))
    for chunk in chunks:
        assert sum(piece.row.length for piece in chunk) <= max_tokens
        assert len({piece.index for piece in chunk}) == len(chunk)
        assert all(piece.row.keep <= piece.row.length for piece in chunk)


@given(steps(), st.integers(1, 15))
def test_all_forks_happen_in_the_first_chunk(rows: list[Row], max_tokens: int) -> None:
    first, *later = split_rows(rows, max_tokens)
    assert [(piece.index, piece.row.source) for piece in first] == [(i, row.source) for i, row in enumerate(rows)]
    assert all(piece.row.source == piece.row.sequence for chunk in later for piece in chunk)
