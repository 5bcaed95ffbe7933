"""The outbox: what was sent on for a session, kept so that it can be sent again when the receiver is lost.

For each sequence the bytes of its tokens, in the segments in which they were sent. A segment never changes, so forks
share them, and equal beginnings are seen by identity. The first tokens of a sequence may be unknown: a sequence that
began with pages found again was never sent through here.

Forks of a step are made once, however often it is sent: numbers that differ in their lowest bits only are tries of the
same step. What was there before the latest forks is kept, for who lost them must begin with that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from swarm.wire.rows import TRY_BITS, Held, Row

Body = bytes | bytearray | memoryview

Later = Callable[[], Body]
"""Makes a body that is rarely wanted."""


class OutboxLost(LookupError):
    """Not all that is to be sent again is held here."""


@dataclass(frozen=True, slots=True, eq=False)
class _Segment:
    """The first `tokens` of the `held` tokens in `body`; None is unknown."""

    tokens: int
    held: int
    body: Body | Later | None


class _Sent:
    """What was sent of one sequence."""

    __slots__ = ("length", "segments")

    def __init__(self, segments: Sequence[_Segment] = ()) -> None:
        self.segments = list(segments)
        self.length = sum(segment.tokens for segment in segments)

    def first(self, tokens: int) -> _Sent:
        """Return the first `tokens` tokens, or all if there are fewer; what is returned may be changed."""
        segments = list(self.segments)
        over = self.length - tokens
        while segments and over > 0:
            last = segments.pop()
            if last.tokens > over:
                segments.append(_Segment(last.tokens - over, last.held, last.body))
            over -= last.tokens
        return _Sent(segments)

    def append(self, tokens: int, body: bytes) -> None:
        self.segments.append(_Segment(tokens, tokens, body))
        self.length += tokens


class Outbox:
    """What was sent of a session's sequences. One thread at a time."""

    def __init__(self) -> None:
        self._sent: dict[int, _Sent] = {}
        self._before: dict[int, _Sent] = {}
        self._forked = -1  # the step, without its try, whose forks were made last
        self._is_given_up = False

    def length(self, sequence: int) -> int:
        """Return how many tokens of a sequence were sent."""
        return self._sent[sequence].length if sequence in self._sent else 0

    def held_before(self, rows: Sequence[Row]) -> tuple[Held, ...]:
        """Return what a hop must hold for a step of these rows to be run: what was sent, less what they drop."""
        dropped = {row.sequence: row.position for row in rows if all(row.sequence == row.source for row in rows)}
        return tuple(
            Held(sequence, min(sent.length, dropped.get(sequence, sent.length)))
            for sequence, sent in self._sent.items()
        )

    def has_forked(self, step: int) -> bool:
        """Whether the forks of this step were made, in this try or in another."""
        return self._forked == step >> TRY_BITS

    def begin(self, sequence: int, tokens: int, body: Later | None = None) -> None:
        """Let a sequence begin with tokens that were not sent."""
        self._sent[sequence] = _Sent([_Segment(tokens, tokens, body)] if tokens else ())

    def place(self, step: int, rows: Sequence[Row]) -> None:
        """Let each row's sequence hold the first `position` tokens of its source, all forks reading what was before."""
        if any(row.sequence != row.source for row in rows):
            if not self.has_forked(step):
                self._forked = step >> TRY_BITS
                self._before = dict(self._sent)
                for row in rows:
                    self._sent[row.sequence] = self._before.get(row.source, _Sent()).first(row.position)
        elif rows[0].position == 0:
            self._forked = -1  # it all begins anew: forks that were made are none any more
        for row in rows:
            sent = self._sent.setdefault(row.sequence, _Sent())
            if sent.length > row.position:
                self._sent[row.sequence] = sent.first(row.position)

    def append(self, rows: Sequence[Row], body: Body) -> None:
        """Add what a step has sent for each row; the rows were placed before, else all is given up."""
        total = sum(row.length for row in rows)
        if self._is_given_up or not total:
            return
        if any(self._sent[row.sequence].length != row.position for row in rows):
            self.give_up()
            return
        width, start = len(body) // total, 0
        for row in rows:
            if row.length:
                part = bytes(memoryview(body)[start * width : (start + row.length) * width])
                self._sent[row.sequence].append(row.length, part)
                start += row.length

    def replay(self, wanted: Iterable[Held], *, before: int, chunk_tokens: int) -> list[tuple[Row, bytes]]:
        """Return what brings a hop that holds nothing to where it would be: steps of one row each, and their bodies.

        Args:
            wanted: How many tokens of each sequence.
            before: The step before which this was so.
            chunk_tokens: Of one step at most.

        Raises:
            OutboxLost: Something of it is not held.
        """
        state = self._before if self._forked >= before >> TRY_BITS else self._sent
        steps: list[tuple[Row, bytes]] = []
        done: dict[int, _Sent] = {}
        for sequence, tokens in wanted:
            sent = state.get(sequence, _Sent()).first(tokens)
            if sent.length != tokens:
                raise OutboxLost(f"sequence {sequence} was not sent up to token {tokens}")
            source, common = _longest_common(sent, done)
            if tokens:
                steps += _steps(sequence, source if common else sequence, sent, common, chunk_tokens)
            done[sequence] = sent
        return steps

    def give_up(self) -> None:
        """Hold nothing any more, for it takes too much memory: who needs it asks somebody else."""
        self._is_given_up = True
        self._sent.clear()
        self._before.clear()

    def bodies(self) -> Iterator[bytes]:
        """Yield all bodies held; those that sequences share come more than once."""
        for state in (self._sent, self._before):
            for sent in state.values():
                yield from (segment.body for segment in sent.segments if isinstance(segment.body, bytes))


def _longest_common(sent: _Sent, done: dict[int, _Sent]) -> tuple[int, int]:
    """Return which of the sequences that are done begins most like this one, and for how many tokens."""
    best = (0, 0)
    for other, theirs in done.items():
        pairs = takewhile(lambda pair: pair[0] is pair[1], zip(sent.segments, theirs.segments, strict=False))
        common = sum(segment.tokens for segment, _ in pairs)
        if common > best[1]:
            best = (other, common)
    return best


def _steps(sequence: int, source: int, sent: _Sent, common: int, chunk_tokens: int) -> list[tuple[Row, bytes]]:
    """Return the steps that append all behind the first `common` tokens, which `source` has too."""
    tokens = sent.length - common
    if not tokens:
        return [(Row(sequence, source, common, 0, 0), b"")]
    whole = b"".join(_bytes(sent, common))
    width, steps = len(whole) // tokens, []
    for start in range(0, tokens, chunk_tokens):
        end = min(start + chunk_tokens, tokens)
        row = Row(sequence, source if start == 0 else sequence, common + start, end - start, 0)
        steps.append((row, whole[start * width : end * width]))
    return steps


def _bytes(sent: _Sent, common: int) -> Iterator[memoryview]:
    for segment in sent.segments:
        if common > 0:
            common -= segment.tokens
            continue
        if segment.body is None:
            raise OutboxLost("a sequence began with pages that were found")
        whole = memoryview(segment.body() if callable(segment.body) else segment.body)
        yield whole[: len(whole) // segment.held * segment.tokens]
