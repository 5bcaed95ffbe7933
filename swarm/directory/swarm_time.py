"""The swarm's time: our clock, set right by those whom we joined.

Records expire at dates, and users' clocks are off by minutes. A peer that joins asks what time the
others have and from then on counts with theirs, in the directory only; hivemind's DHT, which
otherwise refuses whoever is 3 s off, is made to count with it too. The offset belongs to the
process: hivemind reads the time through a function of its modules.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

import hivemind.dht.node
import hivemind.dht.protocol
import hivemind.dht.routing
import hivemind.utils.timed_storage

from swarm.clock import Clock, SystemClock
from swarm.log import get_logger

TOLERANCE = 3.0
"""Seconds of difference that are not worth a correction: a slow ping alone can look like so much."""

logger = get_logger(__name__)


class SwarmTime:
    """A Unix time that peers agree on.

    Attributes:
        offset: Seconds to add to our own clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.offset = 0.0

    def now(self) -> float:
        """Unix time as the swarm counts it."""
        return self._clock.unix() + self.offset

    def to_local(self, moment: float) -> float:
        """Return a moment of the swarm's time as our own clock will show it."""
        return moment - self.offset

    def adjust(self, differences: Sequence[float], *, is_first: bool) -> None:
        """Take over the time of others.

        Args:
            differences: Seconds by which each of them is ahead of `now`.
            is_first: Whether we just joined. Later we go only part of the way, by chance: two peers
                that correct themselves by each other at once would else swap their times for ever.
        """
        if not differences:
            return
        difference = statistics.median(differences)
        if abs(difference) <= TOLERANCE:
            return
        self.offset += difference if is_first else random.random() * difference
        word = "behind" if self.offset > 0 else "ahead of"
        logger.warning("this machine's clock is %.0f s %s the swarm's; set it right", abs(self.offset), word)


SWARM_TIME = SwarmTime(SystemClock())
"""The process's only one."""


def install() -> None:
    """Let hivemind's DHT count with `SWARM_TIME`; idempotent."""
    modules = (
        hivemind.utils.timed_storage,
        hivemind.dht.routing,
        hivemind.dht.protocol,
        hivemind.dht.node,
    )
    for module in modules:
        module.get_dht_time = SWARM_TIME.now
