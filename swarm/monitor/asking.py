"""Asking one server how it does, when somebody looks at it: over a channel, as clients do, and bounded."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

from swarm.errors import HopLost, PeerUnreachable, SwarmError
from swarm.network import Channel, Peer
from swarm.types import EngineStats, PeerId, ServerRecord
from swarm.wire import AskStats, Error, Message, Stats

MAX_CHANNELS = 8
"""Servers that we stay connected with; the one longest not looked at is let go."""

FRESH = 2.0
"""Seconds for which an answer serves everybody."""

TIMEOUT = 6.0
"""Seconds for dialling and the answer: a relayed server's takes some."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server told, or why it did not.

    Attributes:
        stats: Of its engine; None if there was no answer.
        round_trip: Seconds there and back; None if not measured yet.
        problem: Empty if it answered.
    """

    stats: EngineStats | None = None
    round_trip: float | None = None
    problem: str = ""


class Asker:
    """Asks servers on behalf of whoever looks."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._answers: OrderedDict[PeerId, tuple[float, asyncio.Task[Answer]]] = OrderedDict()

    async def ask(self, record: ServerRecord) -> Answer:
        """Return what the server of `record` tells now; never raises for what a stranger does."""
        asked = self._answers.pop(record.peer, None)
        if asked is None or (asked[1].done() and time.monotonic() - asked[0] > FRESH):
            asked = (time.monotonic(), asyncio.create_task(self._ask(record)))
        self._answers[record.peer] = asked
        while len(self._answers) > MAX_CHANNELS:
            peer, (_, task) = self._answers.popitem(last=False)
            task.cancel()
            await self._let_go(peer)
        try:
            return await asyncio.shield(asked[1])
        except asyncio.CancelledError:
            if asked[1].cancelled():
                return Answer(problem="too many servers are being looked at")
            raise

    async def _ask(self, record: ServerRecord) -> Answer:
        try:
            async with asyncio.timeout(TIMEOUT):
                channel = await self._peer.channel(record.peer, record.addrs)
                ear = _Ear()
                channel.receiver = ear
                channel.send(AskStats())
                stats = await ear.answer
        except TimeoutError:
            return Answer(problem=f"no answer within {TIMEOUT:g} s")
        except SwarmError as error:
            return Answer(problem=str(error))
        return Answer(stats, channel.round_trip)

    async def _let_go(self, peer: PeerId) -> None:
        for channel in self._peer.channels:
            if channel.remote == peer and channel.is_dialled:
                await channel.close()


class _Ear:
    """Waits for the answer on one channel."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[EngineStats] = asyncio.get_running_loop().create_future()

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        if self.answer.done():
            return
        if isinstance(message, Stats):
            self.answer.set_result(EngineStats.of(message.values))
        elif isinstance(message, Error):
            self.answer.set_exception(PeerUnreachable(f"peer {channel.remote} says: {message.text}"))

    def closed(self, channel: Channel, reason: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(HopLost(f"the channel to {channel.remote} closed: {reason or 'it hung up'}"))
