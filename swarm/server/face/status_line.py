"""One readable line in the log: when something changes, and each minute while there is something to tell."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from swarm.log import get_logger
from swarm.server.server import Server
from swarm.types import EngineStats, Reach, ServerState, Span

INTERVAL = 60.0
"""Seconds between two lines while there is work."""

GLANCE = 2.0
"""Seconds between looks for a change."""

_STATES = {
    ServerState.JOINING: "loading",
    ServerState.ONLINE: "serving",
    ServerState.DRAINING: "leaving",
    ServerState.OFFLINE: "gone from",
}
_REACHES = {
    Reach.UNKNOWN: "",
    Reach.DIRECT: "",
    Reach.RELAYED: "through relays",
    Reach.UNREACHABLE: "NOT REACHABLE by others",
}

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a server is at: a line is due when this changes."""

    state: ServerState
    span: Span
    reach: Reach


def status_text(standing: Standing, stats: EngineStats, *, tokens_per_s: float) -> str:
    """Return the line; what is zero, and goes without saying, is left out."""
    words = [f"{_STATES[standing.state]} {standing.span}", _REACHES[standing.reach]]
    if standing.state in (ServerState.ONLINE, ServerState.DRAINING):
        words.append(f"{stats.sessions:,} session{'' if stats.sessions == 1 else 's'}")
        words.append(f"{tokens_per_s:,.{0 if tokens_per_s >= 10 else 1}f} tokens/s" if tokens_per_s else "")
        words.append(f"{stats.pages_used:,} of {stats.pages:,} pages")
        words.append(f"{stats.waiting:,} waiting" if stats.waiting else "")
        words.append(f"{stats.num_busy:,} put off so far" if stats.num_busy else "")
    return " · ".join(word for word in words if word)


class StatusLine:
    """Writes the lines of one server.

    Args:
        interval: Seconds between two lines while there is work.
    """

    def __init__(self, server: Server, *, interval: float = INTERVAL) -> None:
        self._server = server
        self._interval = interval
        self._told: Standing | None = None
        self._told_at = time.monotonic()
        self._tokens = 0

    async def run(self) -> None:
        """Look for ever; a task of the server."""
        while True:
            await asyncio.sleep(min(GLANCE, self._interval))
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Write a line if one is due.

        Args:
            now: Monotonic time.
        """
        record, tally = self._server.record(), self._server.reception.tally
        standing = Standing(record.state, record.span, record.reach)
        if self._told is None and standing.state is ServerState.JOINING:
            return  # how it starts is told by others
        is_changed = self._told is not None and standing != self._told
        has_worked = tally.tokens > self._tokens and now - self._told_at >= self._interval
        if self._told is None or is_changed or has_worked:
            speed = (tally.tokens - self._tokens) / max(now - self._told_at, 1e-3)
            if self._told is not None:
                logger.info("%s", status_text(standing, self._server.reception.stats(), tokens_per_s=speed))
            self._told, self._told_at, self._tokens = standing, now, tally.tokens
        elif tally.tokens == self._tokens:
            self._told_at = now  # idle: the minute, and the speed, count from when work comes
