"""Who did not take a session, and when to ask him again; pure."""

from __future__ import annotations

import random

from swarm.errors import Busy, HopLost, HopTimeout, PeerUnreachable, SwarmError
from swarm.types import PeerId

MAX_JITTER = 0.5
"""Of the time that a busy hop asks for, added at random: those who were turned away together come back apart."""

ABSENT = (PeerUnreachable, HopLost, HopTimeout)
"""Errors of those who are not there now: a server that was killed may be back, with the same key, within seconds."""

FIRST_ABSENCE = 1.0
"""Seconds after which who was not there is asked again; twice as many each time."""

MIN_REST = 0.01
"""Seconds: who asks for less is not asked again sooner."""


def jittered(seconds: float) -> float:
    """Return how long to wait for a hop that asks for so many seconds."""
    return max(MIN_REST, seconds) * random.uniform(1, 1 + MAX_JITTER)


class Refusals:
    """The hops that one opening can do without: for good, or, where they are only busy or not there, for a while.

    Args:
        deadline: Monotonic time until which busy hops are asked again.
        patience: Seconds from the first hop on that is not there until such hops are not asked again.

    Attributes:
        patient_since: The beginning of that patience, monotonic; None before there is such a hop.
    """

    def __init__(self, deadline: float, patience: float) -> None:
        self.patient_since: float | None = None
        self._deadline = deadline
        self._patience = patience
        self._refused: dict[PeerId, SwarmError] = {}
        self._busy: dict[PeerId, tuple[float, Busy]] = {}
        self._absent: dict[PeerId, tuple[float, float, SwarmError]] = {}

    def add(self, peer: PeerId, error: SwarmError, now: float) -> None:
        """Note that a hop did not take the session."""
        if isinstance(error, Busy):
            self._busy[peer] = (now + jittered(error.retry_after), error)
        elif isinstance(error, ABSENT):
            if self.patient_since is None:
                self.patient_since = now
            rest = 2 * self._absent[peer][1] if peer in self._absent else FIRST_ABSENCE
            self._absent[peer] = (now + rest, rest, error)
        else:
            self._refused[peer] = error

    def now(self, now: float) -> dict[PeerId, SwarmError]:
        """Return whom not to ask now, and why."""
        resting = {peer: error for peer, (until, error) in self._busy.items() if until > now}
        is_over = self.patient_since is not None and now > self.patient_since + self._patience
        absent = {peer: error for peer, (until, _, error) in self._absent.items() if is_over or until > now}
        return {**self._refused, **absent, **resting}

    def until(self, now: float) -> float | None:
        """Return when the first of those may be asked who are busy now, for nobody else is left; None without any.

        Raises:
            Busy: What a hop said, if that is beyond the deadline.
        """
        resting = [entry for entry in self._busy.values() if entry[0] > now]
        if not resting:
            return None
        until, error = min(resting, key=lambda entry: entry[0])
        if until > self._deadline:
            raise error
        return until
