"""A peer's channels: those that live, and what went over those that have ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from swarm.network.channel import Channel

CARRIERS = ("direct", "libp2p")
"""What a channel can run on."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one carrier has carried since the peer's start; frames and heartbeats, without TLS and TCP around them.

    Attributes:
        channels: Open now.
        bytes_in: Received.
        bytes_out: Handed to the carrier.
    """

    channels: int
    bytes_in: int
    bytes_out: int


class Channels:
    """The set of a peer's channels; one that has ended leaves it by `ended`."""

    def __init__(self) -> None:
        self._all: set[Channel] = set()
        self._past: list[tuple[str, int, int]] = [(carrier, 0, 0) for carrier in CARRIERS]

    def __iter__(self) -> Iterator[Channel]:
        return iter(tuple(self._all))

    def add(self, channel: Channel) -> None:
        """Enter one."""
        self._all.add(channel)

    def ended(self, channel: Channel) -> None:
        """Forget one, but not what went over it. Idempotent."""
        if channel in self._all:
            self._all.remove(channel)
            self._past = _summed([*self._past, channel.traffic])

    def inbound(self) -> Counter[str]:
        """Return how many channels each peer has dialled."""
        return Counter(channel.remote for channel in self._all if not channel.is_dialled)

    def traffic(self) -> dict[str, Traffic]:
        """Return what each carrier has carried."""
        alive = Counter(channel.traffic[0] for channel in self._all if channel.is_open)
        sums = _summed([*self._past, *(channel.traffic for channel in self._all)])
        return {carrier: Traffic(alive[carrier], received, sent) for carrier, received, sent in sums}

    async def beat(self, interval: float) -> None:
        """Show the other sides that we live, and notice those that do not, every `interval` seconds; for ever."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(interval)
            now = loop.time()
            late = now - last - 2 * interval
            last = now
            for channel in self:
                if late > 0:  # we stood still (a long import, a suspended machine): silence is our fault
                    channel.forgive(late)
                else:
                    channel.beat(now)


def _summed(parts: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    return [
        (
            carrier,
            sum(part[1] for part in parts if part[0] == carrier),
            sum(part[2] for part in parts if part[0] == carrier),
        )
        for carrier in CARRIERS
    ]
