"""Who did not take a session, and when to ask him again; pure."""

from __future__ import annotations

import random

from swarm.errors import Busy, SwarmError
from swarm.types import PeerId

MAX_JITTER = 0.5
"""Of the time that a busy hop asks for, added at random: those who were turned away together come back apart."""

MIN_REST = 0.01
"""Seconds: who asks for less is not asked again sooner."""


def jittered(seconds: float) -> float:
    """Return how long to wait for a hop that asks for so many seconds."""
    return max(MIN_REST, seconds) * random.uniform(1, 1 + MAX_JITTER)


class Refusals:
    """The hops that one opening can do without: for good, or, where they are only busy, for a while.

    Args:
        deadline: Monotonic time until which busy hops are asked again.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._refused: dict[PeerId, SwarmError] = {}
        self._busy: dict[PeerId, tuple[float, Busy]] = {}

    def add(self, peer: PeerId, error: SwarmError, now: float) -> None:
        """Note that a hop did not take the session."""
        if isinstance(error, Busy):
            self._busy[peer] = (now + jittered(error.retry_after), error)
        else:
            self._refused[peer] = error

    def now(self, now: float) -> dict[PeerId, SwarmError]:
        """Return whom not to ask now, and why."""
        resting = {peer: error for peer, (until, error) in self._busy.items() if until > now}
        return {**self._refused, **resting}

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
