"""Noticing hops that are frozen though their connections are up, which neither TCP nor libp2p ever does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from swarm.client.legs import Leg
from swarm.client.session import Session
from swarm.network import Channel

LOOK_INTERVAL = 0.25
"""Seconds between looks at sessions that wait."""

STALL = 1.0
"""Seconds without a sign of a step after which its hops are asked whether they live."""

SILENCE = 1.5
"""Seconds that they have to answer: an event loop needs milliseconds, on a busy machine a fraction of one."""


class Silence:
    """Asks the hops of sessions that wait, and remembers when."""

    def __init__(self) -> None:
        self._asked: dict[Channel, float] = {}

    def look(self, sessions: Sequence[Session]) -> list[tuple[Session, Leg]]:
        """Return the hops that were asked and have not answered in time; called every `LOOK_INTERVAL`."""
        now, loop_now = time.monotonic(), asyncio.get_running_loop().time()
        asked, silent = dict[Channel, float](), list[tuple[Session, Leg]]()
        for session in sessions:
            since = session.silent_since()
            if since is None or now - since < STALL:
                continue
            for leg in session.all_legs:
                channel = leg.channel
                asked_at = asked.get(channel, self._asked.get(channel))
                if asked_at is None or channel.heard_at >= asked_at:
                    asked_at = loop_now
                    channel.ping()
                elif loop_now - asked_at > SILENCE and leg.fault is None:
                    silent.append((session, leg))
                asked[channel] = asked_at
        self._asked = asked
        return silent
