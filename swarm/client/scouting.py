"""Measuring the way to servers before they are needed.

Routes go by our own round trips, and a channel that is up already saves time when a hop has to be replaced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Sequence
from heapq import nsmallest

from swarm.client.routes import Routes
from swarm.errors import SwarmError
from swarm.log import get_logger
from swarm.network import Channel, Peer, Receiver
from swarm.planning.coverage import is_routable
from swarm.types import Hop, PeerId, ServerRecord, Span, View

logger = get_logger(__name__)

MAX_SCOUTED = 24
"""Servers to which we keep a channel: each costs both sides a socket, and a Ping every other second."""

PER_BLOCK = 3
"""Servers of each block that are worth knowing: the best, and who takes its place."""

FIRST_WAIT = 0.3
"""Seconds that a first route may wait for round trips: one that knows nothing may be many times slower."""

MAX_MEASURED_ROUTES = 3
"""Of a large swarm so many routes are measured, each better than the last one proved to be, before one is taken."""

SCOUT_INTERVAL = 15.0
"""Seconds between looks for servers worth knowing."""


def worth_knowing(view: View, span: Span, known: Container[PeerId]) -> list[ServerRecord]:
    """Return servers that should be measured: for each block the fastest few, `known` ones counted; pure."""
    fastest = sorted(filter(is_routable, view.records), key=lambda record: (-record.decode_per_s, record.peer))
    lacking = dict.fromkeys(range(span.start, span.end), PER_BLOCK)
    wanted: list[ServerRecord] = []
    for record in sorted(fastest, key=lambda record: record.peer not in known):  # stable: the known come first
        held = [block for block in range(record.span.start, record.span.end) if lacking.get(block)]
        if not held:
            continue
        for block in held:
            lacking[block] -= 1
        if record.peer not in known:
            wanted.append(record)
    return nsmallest(MAX_SCOUTED, wanted, key=lambda record: -len(record.span))


class Scout:
    """Dials servers worth knowing; lives on the bridge's loop.

    Args:
        receiver: Gets what comes over the channels.
    """

    def __init__(self, routes: Routes, peer: Peer, receiver: Receiver) -> None:
        self._routes = routes
        self._peer = peer
        self._receiver = receiver

    async def look(self, view: View, span: Span) -> None:
        """Measure round trips to servers worth knowing; returns when all are known, or have failed."""
        banned = self._routes.bans.now(time.monotonic())
        known = {channel.remote for channel in self._peer.channels}
        wanted = [record for record in worth_knowing(view, span, known) if record.peer not in banned]
        channels = await asyncio.gather(*map(self._dial, wanted[: max(0, MAX_SCOUTED - len(known))]))
        await self._wait_measured([channel for channel in channels if channel is not None])

    async def measure(self, hops: Sequence[Hop], view: View) -> bool:
        """Measure the way to hops that were chosen unmeasured; whether there were any."""
        measured = {channel.remote for channel in self._peer.channels if channel.round_trip is not None}
        wanted = {hop.peer for hop in hops} - measured
        channels = await asyncio.gather(*(self._dial(record) for record in view.records if record.peer in wanted))
        await self._wait_measured([channel for channel in channels if channel is not None])
        return bool(wanted)

    async def _dial(self, record: ServerRecord) -> Channel | None:
        try:
            channel = await self._peer.channel(record.peer, record.addrs)
        except SwarmError as error:
            logger.debug("peer %s: not scouted: %s", record.peer, error)
            return None
        channel.receiver = self._receiver
        return channel

    async def _wait_measured(self, channels: Sequence[Channel]) -> None:
        for channel in channels:
            while channel.is_open and channel.round_trip is None:  # noqa: ASYNC110 - a moment, once per server
                await asyncio.sleep(0.005)
