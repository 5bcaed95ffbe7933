"""Cutting a long step into chunks; pure.

A prompt of thousands of tokens travels as several steps, so that all hops work at the same time.
The first chunk lists every row, if only to fork it: forks of one step all read the state before
it, which a later chunk would no longer see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swarm.client.prefixes import filled_pages
from swarm.wire import Row
from swarm.wire.limits import HASH_BYTES, MAX_HASHES


@dataclass(frozen=True, slots=True)
class Piece:
    """One row's part of a chunk: `row` as it travels, tokens [start, end) of the whole step."""

    index: int
    row: Row
    start: int
    end: int


def split_rows(rows: Sequence[Row], max_tokens: int) -> list[list[Piece]]:
    """Cut `rows` into chunks of at most `max_tokens` tokens each, keeping their order.

    The kept tokens of a row stay its last `keep` ones, spread over the pieces that hold them.
    """
    chunks: list[list[Piece]] = [[]]
    rests: list[tuple[int, Row, int, int]] = []
    room, offset = max_tokens, 0
    for index, row in enumerate(rows):
        length = min(room, row.length)
        chunks[0].append(_piece(index, row, 0, length, offset))
        if length < row.length:
            rests.append((index, row, length, offset))
        room -= length
        offset += row.length
    for index, row, done, offset in rests:
        while done < row.length:
            if room == 0:
                chunks.append([])
                room = max_tokens
            length = min(room, row.length - done)
            own = row._replace(source=row.sequence)
            chunks[-1].append(_piece(index, own, done, length, offset))
            room -= length
            done += length
    return chunks


def marks_of(rows: Sequence[Row], hashes: Sequence[Sequence[bytes]]) -> bytes:
    """Return the hashes of the pages that a step of these rows fills, row by row; empty if they do not fit a message.

    Args:
        rows: Of the step.
        hashes: For each row those of all pages of its sequence that are full after the step.
    """
    marks = b"".join(
        own[page] for row, own in zip(rows, hashes, strict=True) for page in filled_pages(row.position, row.length)
    )
    return marks if len(marks) <= MAX_HASHES * HASH_BYTES else b""


def _piece(index: int, row: Row, done: int, length: int, offset: int) -> Piece:
    end = done + length
    keep = max(0, end - max(done, row.length - row.keep))
    return Piece(index, Row(row.sequence, row.source, row.position + done, length, keep), offset + done, offset + end)
