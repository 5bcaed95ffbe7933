"""Works that wait for KV pages: who is next when some become free, and who gives way when none do.

The oldest session comes first, so that somebody always goes on and ends. After `PATIENCE` without a page the youngest
waiting session of the client that holds most is told `Busy`, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from swarm.server.sessions import Session
from swarm.server.work import Work

PATIENCE = 0.5
"""Seconds that a step waits for pages: the others' sessions end, or else somebody has to give way."""


@dataclass(slots=True)
class PageQueue:
    """Pure: whoever owns it says what is free, and what time it is."""

    _works: list[Work] = field(default_factory=list)
    _since: float = 0.0
    _num_free: int = 0  # when the last one found too few

    def __len__(self) -> int:
        return len(self._works)

    def __contains__(self, work: object) -> bool:
        return work in self._works

    def add(self, work: Work, *, num_free: int, now: float) -> None:
        """Let a work wait that has found only so many pages free."""
        if not self._works:
            self._since = now
        self._works.append(work)
        self._num_free = num_free

    def take_stale(self) -> list[Work]:
        """Remove and return works that a roll-back, or their session's end, has overtaken."""
        gone = [work for work in self._works if work.is_stale]
        self._works = [work for work in self._works if work not in gone]
        return gone

    def next(self, *, num_free: int, now: float) -> Work | None:
        """Remove and return the work that may try again, if pages have become free; the next one has its turn later."""
        self._num_free = min(self._num_free, num_free)
        if not self._works or num_free == self._num_free:
            return None
        self._since = now
        first = min(self._works, key=lambda work: work.owner.opened_at)
        self._works.remove(first)
        return first

    def victim(self, sessions: Iterable[Session], *, now: float) -> Work | None:
        """Remove and return the work that gives way, if all have waited long enough.

        Args:
            sessions: All that hold pages.
            now: Monotonic seconds.
        """
        if not self._works or now - self._since < PATIENCE:
            return None
        held: dict[str, int] = {}
        for session in sessions:
            pages = sum(len(sequence.pages) for sequence in session.sequences.values())
            held[session.client] = held.get(session.client, 0) + pages
        last = max(self._works, key=lambda work: (held.get(work.owner.client, 0), work.owner.opened_at))
        self._works.remove(last)
        self._since, self._num_free = now, -1  # what it gives back is for the oldest of the others
        return last
