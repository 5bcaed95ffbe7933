"""Round trips to servers that may come next in a route, measured by us, announced in our record.

A client only measures its own way to a server; what lies between two servers, it learns from these. A channel to each
of a few likely next hops stays open, whose heartbeats measure it anyway; when a session wants to push there, it finds
the channel up. Which ones is decided by `choose_neighbours`, anew each round.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarm.directory import Directory
from swarm.errors import SwarmError
from swarm.log import get_logger
from swarm.network import Channel, Peer
from swarm.planning import agree
from swarm.types import PeerId, Reach, ServerRecord, ServerState, Span, View
from swarm.wire.records import MAX_ROUND_TRIPS

MAX_OPEN = 8
"""Channels that are kept for measuring."""

NUM_NEAR = 4
"""Of them, those to the nearest that we know; the others go to servers that were not measured, or longest ago."""

OPEN_TIMEOUT = 5.0
"""Seconds for all dials of a round and their first round trips."""

MAX_AGE = 20
"""Rounds after which a round trip that was not measured again is no longer told."""

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of one server.

    Attributes:
        seconds: There and back; None if it could not be reached.
        round: In which round that was.
    """

    seconds: float | None
    round: int


def likely_next(view: View, span: Span, myself: PeerId) -> tuple[ServerRecord, ...]:
    """Return the servers to which a route may go on from the end of `span`."""
    return tuple(
        record
        for record in view.records
        if record.peer != myself
        and span.end in record.span
        and record.state is ServerState.ONLINE
        and record.reach is not Reach.UNREACHABLE
    )


def choose_neighbours(
    candidates: Sequence[ServerRecord], measured: Mapping[PeerId, Measured], *, dice: random.Random
) -> tuple[ServerRecord, ...]:
    """Return the servers to measure next, `MAX_OPEN` at most.

    The nearest known stay, for routes will go there; the rest is for those not measured yet, then those measured
    longest ago, so that a new near one is found soon however many there are.
    """

    def seconds(record: ServerRecord) -> float:
        known = measured.get(record.peer)
        return float("inf") if known is None or known.seconds is None else known.seconds

    near = [record for record in sorted(candidates, key=seconds) if seconds(record) < float("inf")][:NUM_NEAR]
    kept = {record.peer for record in near}
    others = [record for record in candidates if record.peer not in kept]
    dice.shuffle(others)
    others.sort(key=lambda record: known.round if (known := measured.get(record.peer)) is not None else -1)
    return (*near, *others)[:MAX_OPEN]


class Neighbours:
    """Measures; `run` is a task of the server.

    Attributes:
        round_trips: For our record, the nearest first.
    """

    def __init__(self, peer: Peer, model: str, fingerprint: str, span: Span) -> None:
        self.round_trips: tuple[tuple[PeerId, float], ...] = ()
        self._peer = peer
        self._model = model
        self._fingerprint = fingerprint
        self._span = span
        self._measured: dict[PeerId, Measured] = {}
        self._channels: dict[PeerId, Channel] = {}
        self._round = 0
        self._dice = random.Random()

    async def run(self, directory: Directory, *, interval: float) -> None:
        """Measure every `interval` seconds, for ever."""
        pause = interval / 10  # the first time soon, for the record that is announced next
        while True:
            await asyncio.sleep(pause)
            try:
                await self.measure(await directory.view(self._model))
            except Exception as error:  # a periodic task over strangers' records: the next round may do better
                logger.warning("round trips were not measured: %s: %s", type(error).__name__, error)
            pause = interval * self._dice.uniform(0.75, 1.0)

    async def measure(self, view: View) -> None:
        """Measure one round: dial the servers chosen from `view`, and let go of the others."""
        self._round += 1
        candidates = likely_next(agree(view, self._fingerprint).view, self._span, self._peer.peer_id)
        chosen = choose_neighbours(candidates, self._measured, dice=self._dice)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT), asyncio.TaskGroup() as tasks:
                for record in chosen:
                    self._measured[record.peer] = Measured(None, self._round)
                    tasks.create_task(self._open(record))
        except TimeoutError:
            logger.debug("not all neighbours answered within %.0f s", OPEN_TIMEOUT)
        self._note({record.peer for record in chosen})
        self._forget({record.peer for record in candidates})

    def close(self) -> None:
        """Let go of all channels that only we use; after `run` has ended."""
        self._note(set())

    async def _open(self, record: ServerRecord) -> None:
        try:
            channel = self._channels[record.peer] = await self._peer.channel(record.peer, record.addrs)
            while channel.is_open and channel.round_trip is None:  # noqa: ASYNC110 - its first Pong is on the way
                await asyncio.sleep(0.02)
        except SwarmError as error:
            logger.debug("peer %s: no round trip: %s", record.peer, error)

    def _note(self, chosen: set[PeerId]) -> None:
        for peer, channel in tuple(self._channels.items()):
            if channel.is_open and channel.round_trip is not None:
                self._measured[peer] = Measured(channel.round_trip, self._round)
            if peer not in chosen or not channel.is_open:
                del self._channels[peer]
                if channel.receiver is None:  # else sessions push over it
                    channel.abort()

    def _forget(self, candidates: set[PeerId]) -> None:
        self._measured = {
            peer: known
            for peer, known in self._measured.items()
            if peer in candidates and self._round - known.round <= MAX_AGE
        }
        found = [(peer, round(known.seconds, 6)) for peer, known in self._measured.items() if known.seconds is not None]
        self.round_trips = tuple(sorted(found, key=lambda pair: pair[1])[:MAX_ROUND_TRIPS])
