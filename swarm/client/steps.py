"""The steps of a session that are under way: numbered when they are made, matched with what comes back.

Steps of one session are made by one thread at a time; what comes back comes on the loop. Each step has a taker,
who is told exactly once, unless the step is given up before.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from swarm.client.explain import StepTiming
from swarm.errors import BadResult, SwarmError
from swarm.types import Hop
from swarm.wire import Result, Row, Step, unpack_timings
from swarm.wire.codecs import body_bytes, decode_tensor
from swarm.wire.outbox import Body, Outbox
from swarm.wire.rows import TRY_BITS

MAX_TIMINGS = 512
"""Recent steps kept for `explain`."""


class Taker(Protocol):
    """Who is told what became of a step; called on the loop, must not block."""

    def took(self, waiting: Waiting, result: Result, body: bytearray) -> None:
        """The last hop's answer came; it was not looked at yet (see `check`)."""
        ...

    def failed(self, error: SwarmError) -> None:
        """There will be no answer."""
        ...


MAX_AHEAD = 16
"""Chunks of one session that are under way: enough to keep all hops at work, few enough to let others in between."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A step under way.

    Attributes:
        tokens: How many it has.
        kept: How many come back.
        taker: Who is told.
        sent_at: Monotonic time.
        number: The step's.
        rows: What each sequence does.
        body: The tokens as they were sent; set by whoever sends them.
    """

    tokens: int
    kept: int
    taker: Taker
    sent_at: float
    number: int
    rows: tuple[Row, ...]
    body: Body = b""


class Steps:
    """Makes the Step messages of a session, and keeps those that are under way.

    Attributes:
        codec: How activations travel.
        epoch: Counts how often all that was under way was given up.
        timings: Recent steps through the present hops, newest last.
        num_results: Results received, one for each step sent, whatever the number of hops.
        outbox: What was sent and answered: what a new first hop has to begin with.
        progress_at: Monotonic time of the last result, or of the first step after a time without any.
    """

    def __init__(self, session_id: bytes, hops: Sequence[Hop], codec: str, hidden_size: int) -> None:
        self.codec = codec
        self.timings: deque[StepTiming] = deque(maxlen=MAX_TIMINGS)
        self.num_results = 0
        self.outbox = Outbox()
        self.progress_at = 0.0
        self._session_id = session_id
        self._hidden_size = hidden_size
        self._last_step = 0
        self._waiting: dict[int, Waiting] = {}
        self.epoch = 0
        self.follow(hops)

    def follow(self, hops: Sequence[Hop]) -> None:
        """Send further steps along these hops."""
        self._last_hop = hops[-1]
        self._route = tuple(hop.peer for hop in hops[1:])
        self.timings.clear()

    @property
    def next_number(self) -> int:
        """The number of the next step."""
        return (self._last_step + 1) << TRY_BITS

    def reserve(self, count: int) -> tuple[int, int]:
        """Return the first and the last of so many numbers, which no step of ours will have."""
        first = self.next_number
        self._last_step += count
        return first, self._last_step << TRY_BITS

    def make(self, rows: tuple[Row, ...], taker: Taker, *, marks: bytes = b"", again: int = 0) -> tuple[Step, Waiting]:
        """Return the next step's message, which is under way from now on; any thread that owns the session may call.

        Args:
            rows: What each sequence does.
            taker: Who is told what became of it.
            marks: See `swarm.wire.Step`.
            again: The number of the last try, if this is another one of the same step.
        """
        if again:
            number = again + 1
        else:
            self._last_step += 1
            number = self._last_step << TRY_BITS
        tokens, kept = (rows[0].length, rows[0].keep) if len(rows) == 1 else _sums(rows)
        now = time.monotonic()
        if not self._waiting:
            self.progress_at = now
        waiting = self._waiting[number] = Waiting(tokens, kept, taker, now, number, rows)
        message = Step(self._session_id, number, self.epoch, self.codec, rows, self._route, marks)
        return message, waiting

    def take(self, message: Result) -> Waiting | None:
        """Return the step that this answers, which is no more under way; None if it was given up."""
        waiting = self._waiting.pop(message.step, None)
        if waiting is not None:
            self.num_results += 1
            self.progress_at = time.monotonic()
            self.outbox.place(waiting.number, waiting.rows)
            self.outbox.append(waiting.rows, waiting.body)
            seconds = self.progress_at - waiting.sent_at
            self.timings.append(StepTiming(waiting.tokens, seconds, unpack_timings(message.times)))
        return waiting

    def check(self, message: Result, body: bytearray, waiting: Waiting) -> Tensor:
        """Return the kept tokens (T, D) of an answer.

        Raises:
            BadResult: It is not what was asked for, or holds numbers that are not finite.
        """
        self.check_shape(message, waiting, len(body))
        hidden = decode_tensor(body, message.codec, tokens=message.tokens, hidden_size=self._hidden_size)
        self.check_finite(hidden)
        return hidden

    def check_shape(self, message: Result, waiting: Waiting, size: int) -> None:
        """Raise BadResult unless the answer, of `size` bytes, has the kept tokens in the session's codec."""
        if message.tokens != waiting.kept or message.codec != self.codec:
            raise BadResult(
                f"hop {self._last_hop} sent {message.tokens} tokens in {message.codec}, "
                f"not {waiting.kept} in {self.codec}"
            )
        expected = body_bytes(self.codec, tokens=waiting.kept, hidden_size=self._hidden_size)
        if size != expected:
            raise BadResult(f"hop {self._last_hop} sent {size} bytes for {waiting.kept} tokens, which are {expected}")

    def check_finite(self, hidden: Tensor) -> None:
        """Raise BadResult if some of the numbers are not finite."""
        if not bool(torch.isfinite(hidden).all()):
            raise BadResult(f"hop {self._last_hop} sent numbers that are not finite")

    @property
    def num_under_way(self) -> int:
        """Steps that were sent and are not answered."""
        return len(self._waiting)

    def concerns(self, step: int) -> bool:
        """Whether an error about `step` is about something under way, or about the whole session (0)."""
        return not step or step in self._waiting

    def fail(self, error: SwarmError, *, step: int = 0) -> None:
        """Tell all takers, for what follows a failed step begins where nothing is.

        Nothing happens if `step` was given up before; 0 is the whole session.
        """
        if not self.concerns(step):
            return
        for waiting in list(self._waiting.values()):  # in one go: another thread may make steps
            waiting.taker.failed(error)

    def give_up(self) -> None:
        """Forget all that is under way; the new epoch makes hops drop what has not run."""
        self._waiting.clear()
        self.epoch += 1


def _sums(rows: Sequence[Row]) -> tuple[int, int]:
    return sum(row.length for row in rows), sum(row.keep for row in rows)
