"""The outlook: what a swarm will hold once everything that its servers have announced is done.

A record says what its server holds and, as `next_span`, what it is about to hold instead. Placement counts the
latter, so that a hole which somebody is about to fill draws nobody else; but only what a server holds now, and
intends to go on holding, can be relied on by another that leaves.

An `Outlook` is made once for each view and not changed; questions of the kind "and if this one were not there"
are answered by `Levels` of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import median

from swarm.planning.coverage import DIGITS
from swarm.types import PeerId, Reach, ServerRecord, ServerState, Span, View

LOADING_PATIENCE = 1800.0
"""Seconds after which a server that still loads its span is not expected any more."""

FRESH_SHARE = 0.5
"""Of the ttl: records are refreshed at each third of it; of which less is left missed that, its server may be dead."""


@dataclass(slots=True)
class Levels:
    """How well each block is off.

    Attributes:
        expected: Tokens/s that the block will have.
        num_expected: Servers that will hold it.
        num_held: Servers that hold it now, do not intend to leave, and kept their records fresh.
        total: Tokens/s through one block of all servers together.
    """

    expected: list[float]
    num_expected: list[int]
    num_held: list[int]
    total: float = 0.0

    @classmethod
    def nothing(cls, num_blocks: int) -> Levels:
        """Return those of a swarm without servers."""
        return cls([0.0] * num_blocks, [0] * num_blocks, [0] * num_blocks)

    def copy(self) -> Levels:
        """Return others that may be changed."""
        return Levels(self.expected[:], self.num_expected[:], self.num_held[:], self.total)

    def expect(self, span: Span, speed: float, sign: int = 1) -> None:
        """Add a server that will hold `span`; -1 takes it away."""
        share = sign * speed / len(span)
        for block in range(span.start, min(span.end, len(self.expected))):
            self.num_expected[block] += sign
            # Of nobody is left exactly nothing: floats would leave a crumb.
            self.expected[block] = round(self.expected[block] + share, DIGITS) if self.num_expected[block] else 0.0
        self.total += sign * speed

    def hold(self, span: Span, sign: int = 1) -> None:
        """Add a server that holds `span` now, and stays; -1 takes it away."""
        for block in range(span.start, min(span.end, len(self.num_held))):
            self.num_held[block] += sign

    @property
    def fair(self) -> float:
        """Tokens/s of each block if all work could be shared out evenly: no placement has more at its weakest block."""
        return self.total / len(self.expected)

    @property
    def num_holes(self) -> int:
        """Blocks that will have no server."""
        return self.num_expected.count(0)


@dataclass(frozen=True, slots=True)
class Outlook:
    """A swarm of one model as its servers' placement sees it.

    Attributes:
        records: The servers that count, by peer.
        levels: What they give; not to be changed, take copies.
        num_blocks: Blocks of the whole model.
        bare: For each block whether no server serves it now.
        speed: Tokens/s through one block of a server that has not measured its own: the others' median.
        taken_at: Unix time of the view.
        ttl: Seconds that records live.
    """

    records: Mapping[PeerId, ServerRecord]
    levels: Levels
    num_blocks: int
    bare: tuple[bool, ...]
    speed: float
    taken_at: float
    ttl: float

    @classmethod
    def of(cls, view: View, *, num_blocks: int, ttl: float) -> Outlook:
        """Return the outlook of a view that holds one checkpoint only."""
        records = {r.peer: r for r in view.records if _is_counted(r, view.taken_at)}
        speeds = [r.decode_per_s for r in records.values() if r.decode_per_s > 0]
        speed = median(speeds) if speeds else 1.0
        held = {r.span for r in records.values() if r.state is ServerState.ONLINE}
        served = {block for span in held for block in range(span.start, span.end)}
        bare = tuple(block not in served for block in range(num_blocks))
        outlook = cls(records, Levels.nothing(num_blocks), num_blocks, bare, speed, view.taken_at, ttl)
        outlook._count_all(outlook.levels)
        return outlook

    def speed_of(self, record: ServerRecord) -> float:
        """Tokens/s through one block, guessed while it is not told."""
        return record.decode_per_s if record.decode_per_s > 0 else self.speed

    def is_held(self, record: ServerRecord) -> bool:
        """Whether others can rely on what this server holds now."""
        is_staying = record.state is ServerState.ONLINE and record.next_span is None
        return is_staying and record.expires_at - self.taken_at >= FRESH_SHARE * self.ttl

    def without(self, peer: PeerId) -> Levels:
        """Return the levels as if `peer` were not there."""
        levels = self.levels.copy()
        if (record := self.records.get(peer)) is not None:
            self._count(levels, record, -1)
        return levels

    def at_turn(self, mine: ServerRecord) -> Levels:
        """Return the levels as the server `mine` has to see them when it is its turn to move.

        Without itself, and without the moves of those who want one as well but come after it: they will see
        that it went first, and think again.
        """
        levels = self.without(mine.peer)
        for record in self.records.values():
            is_wanting = record.next_span is not None and record.state is ServerState.ONLINE
            if is_wanting and record.peer != mine.peer and turn(record) > turn(mine):
                self._count(levels, record, -1)
                self._count(levels, replace(record, next_span=None))
        return levels

    def _count_all(self, levels: Levels) -> None:
        """As `_count` for each record, by the changes from block to block: spans may be long, servers many."""
        size = self.num_blocks + 1
        shares, counts, held = [0.0] * size, [0] * size, [0] * size
        for record in self.records.values():
            future, speed = future_span(record), self.speed_of(record)
            start, end = min(future.start, self.num_blocks), min(future.end, self.num_blocks)
            share = speed / len(future)
            shares[start] += share
            shares[end] -= share
            counts[start] += 1
            counts[end] -= 1
            if self.is_held(record):
                held[min(record.span.start, self.num_blocks)] += 1
                held[min(record.span.end, self.num_blocks)] -= 1
            levels.total += speed
        levels.num_expected[:] = accumulate(counts[:-1])
        levels.num_held[:] = accumulate(held[:-1])
        sums = zip(accumulate(shares[:-1]), levels.num_expected, strict=True)
        levels.expected[:] = [round(amount, DIGITS) if count else 0.0 for amount, count in sums]

    def _count(self, levels: Levels, record: ServerRecord, sign: int = 1) -> None:
        levels.expect(future_span(record), self.speed_of(record), sign)
        if self.is_held(record):
            levels.hold(record.span, sign)


def future_span(record: ServerRecord) -> Span:
    """Return what a server will hold once it did what it announced."""
    return record.next_span or record.span


def turn(record: ServerRecord) -> tuple[float, PeerId]:
    """Return what decides who goes first of those who claim a span, or want to move, at the same time."""
    return record.since, record.peer


def _is_counted(record: ServerRecord, now: float) -> bool:
    if record.reach is Reach.UNREACHABLE:
        return False
    if record.state is ServerState.JOINING:
        return record.since == 0 or now - record.since < LOADING_PATIENCE
    is_moving = record.state is ServerState.DRAINING and record.next_span is not None
    return is_moving or record.state is ServerState.ONLINE
