"""Who failed us lately, and is left alone for a while; pure.

Each further failure doubles the time; after a quiet while the count begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from swarm.errors import HopTimeout, SwarmError
from swarm.types import PeerId

FIRST = 2.0
"""Seconds of the first ban: a process that was killed is back, or its record gone, after a few of these."""

FIRST_SILENT = 10.0
"""Of one who said nothing: asking him again costs a timeout, where others refuse at once."""

MOST = 300.0

FORGET = 60.0
"""Seconds behind a ban's end after which the next failure counts as the first."""

RETRY = 1.0
"""Where nobody else serves some blocks, the banned are asked again this many seconds after they failed, and the
silent after FIRST_SILENT, however long their ban."""


@dataclass(frozen=True, slots=True)
class _Ban:
    failures: int
    since: float
    until: float
    error: SwarmError


class Bans:
    """Times are monotonic seconds."""

    def __init__(self) -> None:
        self._bans: dict[PeerId, _Ban] = {}

    def add(self, peer: PeerId, error: SwarmError, now: float) -> None:
        """Note that a peer failed; failures while it is banned are the same one."""
        old = self._bans.get(peer)
        if old is not None and now < old.until and not isinstance(error, HopTimeout):
            return
        is_first = old is None or now > old.until + FORGET
        failures = 1 if old is None or is_first else old.failures + 1
        first = FIRST_SILENT if isinstance(error, HopTimeout) else FIRST
        self._bans[peer] = _Ban(failures, now, now + min(MOST, first * 2.0 ** min(failures - 1, 16)), error)
        self._bans = {who: ban for who, ban in self._bans.items() if now <= ban.until + FORGET}

    def now(self, now: float) -> dict[PeerId, SwarmError]:
        """Return whom not to ask now, and why."""
        return {peer: ban.error for peer, ban in self._bans.items() if now < ban.until}

    def strictest(self, now: float, heard: Mapping[PeerId, float] = {}) -> dict[PeerId, SwarmError]:
        """Return whom not to ask even where nobody else is left: who has just failed, and the silent.

        Args:
            now: The time.
            heard: When we last heard of whom; who has spoken since his ban is not silent any more.
        """
        return {
            peer: ban.error
            for peer, ban in self._bans.items()
            if now < min(ban.until, ban.since + _rest(ban)) and heard.get(peer, ban.since) <= ban.since
        }


def _rest(ban: _Ban) -> float:
    return FIRST_SILENT if isinstance(ban.error, HopTimeout) else RETRY
