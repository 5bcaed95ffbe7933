"""A trail: which way a stream's text goes, known beyond the end of its sessions without keeping them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from swarm.client.explain import StepTiming
from swarm.client.session import Session
from swarm.types import Hop

MAX_KEPT = 128
"""Steps whose timings are kept beyond a session's end: whoever shows texts may hold hundreds of streams."""


class Way(NamedTuple):
    """The hops in use, or used last, the recent steps through them, and how often hops were replaced."""

    hops: tuple[Hop, ...] = ()
    steps: tuple[StepTiming, ...] = ()
    num_failovers: int = 0

    @classmethod
    def of(cls, session: Session, failovers_before: int = 0) -> Way:
        """Return what is known of a session now, from any thread."""
        # Copying is one step of the interpreter: the loop may add to the original meanwhile.
        return cls(session.hops, tuple(session.timings.copy()), failovers_before + session.num_mends)


class Trail:
    """The way of one stream; written on the bridge's loop, read by any thread.

    A session is let go when it is closed: what it holds of the prompt is as large as the prompt.
    """

    def __init__(self, on_open: Callable[[Session], None]) -> None:
        self._on_open = on_open
        self._followed: tuple[Session | None, Way] = (None, Way())  # in one piece, for other threads read it

    def opened(self, session: Session) -> None:
        """Follow a session: the stream's first, or the next after a busy hop was waited for."""
        self._followed = (session, self.way())
        self._on_open(session)

    def closed(self) -> None:
        """Keep what is known of the session that was followed, of its latest steps, and let it go."""
        way = self.way()
        self._followed = (None, way._replace(steps=way.steps[-MAX_KEPT:]))

    def way(self) -> Way:
        """Return what is known now."""
        session, before = self._followed
        return before if session is None else Way.of(session, before.num_failovers)
