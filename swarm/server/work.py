"""A step on its way through the engine, and the batches that steps are run in.

A `Work` is one Step message. A `Piece` is the part of it that one batch runs: all of a decode, a stretch of a long
prefill. A `Run` is a batch on its way through the blocks; it can rest between any two of them, and lose pieces there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from swarm.blocks import PAGE_SLOTS
from swarm.blocks import Row as BlockRow
from swarm.errors import SwarmError
from swarm.server.scheduler import Entry
from swarm.server.sessions import Session
from swarm.types import Span
from swarm.wire import Prepared, Row, Step
from swarm.wire.limits import HASH_BYTES


@dataclass(slots=True, kw_only=True, eq=False)
class Work(Entry):
    """One step, from its arrival to its answer.

    Attributes:
        owner: Its session; `session`, by which the scheduler knows it, is the id.
        step: As it came.
        body: Its activations, as they came; dropped once they are read.
        num_bytes: How many there were.
        hidden: (T, D) what was read.
        is_placed: Whether its sequences were forked and rolled back, which can be done once only.
        outputs: Of the parts that have run, each (tokens, D).
        prepared: The answer's header, if the event loop has had time for it.
        started_at: When its first part began, monotonic.
        ended_at: When its last part ended.
        answer: What travels on, in the session's codec; None if the step proved stale, or failed.
        error: Why it failed.
    """

    owner: Session
    step: Step
    body: bytearray | None
    num_bytes: int
    hidden: Tensor | None = None
    is_placed: bool = False
    outputs: list[Tensor] = field(default_factory=list)
    prepared: Prepared | None = None
    started_at: float = 0.0
    ended_at: float = 0.0
    answer: memoryview | None = None
    error: SwarmError | None = None

    @classmethod
    def of(cls, session: Session, step: Step, body: bytearray, *, tokens: int, arrived_at: float) -> Work:
        """Return the work of a step that was checked and has so many tokens."""
        return cls(
            client=session.client,
            session=session.session_id,
            tokens=tokens,
            longest=max(row.length for row in step.rows),
            arrived_at=arrived_at,
            priority=session.priority,
            num_hops=session.num_hops,
            owner=session,
            step=step,
            body=body,
            num_bytes=len(body),
        )

    @property
    def is_stale(self) -> bool:
        """Whether a roll-back, or the session's end, has overtaken the step."""
        return self.step.epoch < self.owner.epoch

    def marked_pages(self) -> list[tuple[Row, int, list[bytes]]]:
        """Return which pages the step has filled: a row, the first of its pages, and the keys to find them by."""
        marks, at, found = self.step.marks, 0, []
        for row in self.step.rows:
            first, count = row.position // PAGE_SLOTS, num_filled(row)
            if count:
                hashes = [marks[i : i + HASH_BYTES] for i in range(at, at + count * HASH_BYTES, HASH_BYTES)]
                found.append((row, first, self.owner.keys(hashes)))
                at += count * HASH_BYTES
        return found


def kept_of(rows: Sequence[Row], output: Tensor) -> Tensor:
    """Return each row's last `keep` tokens of `output` (T, D)."""
    if all(row.keep == row.length for row in rows):
        return output
    pieces, end = [], 0
    for row in rows:
        end += row.length
        pieces.append(output[end - row.keep : end])
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def num_filled(row: Row) -> int:
    """Return how many pages a row's tokens fill up."""
    return (row.position + row.length) // PAGE_SLOTS - row.position // PAGE_SLOTS


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Tokens [start, start + tokens) of a work, as one batch runs them; `rows` have pages for them."""

    work: Work
    start: int
    tokens: int
    rows: Sequence[BlockRow]

    @property
    def hidden(self) -> Tensor:
        """(tokens, D) what goes in."""
        assert self.work.hidden is not None
        whole = self.work.hidden
        return whole if self.tokens == len(whole) else whole[self.start : self.start + self.tokens]


def rows_between(rows: Sequence[Row], start: int, end: int) -> list[tuple[Row, int, int]]:
    """Return the rows that hold tokens [start, end) of a step, with each one's part: (row, position, length)."""
    found, begin = [], 0
    for row in rows:
        first, last = max(start, begin), min(end, begin + row.length)
        if first < last:
            found.append((row, row.position + first - begin, last - first))
        begin += row.length
    return found


class Run:
    """A batch that has come to block `block` of `span`; its pieces all run these blocks."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = list(pieces)
        self.span = pieces[0].work.owner.span
        self.block = self.span.start
        parts = [piece.hidden for piece in pieces]
        self.hidden = parts[0] if len(parts) == 1 else torch.cat(parts)  # (T, D)

    @property
    def tokens(self) -> int:
        """Tokens of the batch."""
        return int(self.hidden.shape[0])

    @property
    def rows(self) -> list[BlockRow]:
        """The rows of all pieces, in the order of `hidden`."""
        return [row for piece in self.pieces for row in piece.rows]

    @property
    def is_done(self) -> bool:
        """Whether it has gone through all blocks."""
        return self.block == self.span.end

    def next_blocks(self, count: int) -> Span:
        """Return the next `count` blocks, or those that are left."""
        return Span(self.block, min(self.block + count, self.span.end))

    def parts(self) -> list[tuple[Piece, Tensor]]:
        """Return each piece with its share of `hidden`."""
        return list(zip(self.pieces, torch.split(self.hidden, [piece.tokens for piece in self.pieces]), strict=True))

    def remove(self, gone: Sequence[Piece]) -> None:
        """Go on without some pieces."""
        left = [(piece, part) for piece, part in self.parts() if piece not in gone]
        self.pieces = [piece for piece, _ in left]
        self.hidden = torch.cat([part for _, part in left]) if left else self.hidden[:0]
