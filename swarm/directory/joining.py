"""Joining the swarm through its initial peers, and staying joined.

Dead initial peers cost a bounded time and never the start. While nobody is there, tries go on with
growing pauses; once connected, lost initial peers are tried from time to time, so that parts of a
swarm that were apart grow together.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from multiaddr import Multiaddr

from swarm.directory.config import Timeouts
from swarm.directory.node import Node
from swarm.directory.swarm_time import SWARM_TIME
from swarm.errors import SwarmError
from swarm.log import get_logger
from swarm.network import Peer, peer_id_of
from swarm.network.dialling import BACKOFF

_JITTER = 0.25
"""Each pause is up to a quarter shorter, by chance: peers that lost a bootstrap at once return one by one."""

logger = get_logger(__name__)


class Joining:
    """The way into the swarm, and back.

    Attributes:
        failures: Why each initial peer was not reached in the last try.
    """

    def __init__(self, peer: Peer, node: Node, addrs: Sequence[Multiaddr], timeouts: Timeouts) -> None:
        self._peer = peer
        self._node = node
        self._addrs = tuple(addr for addr in addrs if peer_id_of(addr) != peer.peer_id)
        self._timeouts = timeouts
        self._has_joined = False
        self._listeners: list[Callable[[], None]] = []
        self.failures: dict[Multiaddr, str] = {}

    @property
    def is_connected(self) -> bool:
        """Whether we know another node of the DHT."""
        return self._node.num_neighbours > 0

    def on_joined(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever we were alone and are no more."""
        self._listeners.append(listener)

    async def try_all(self) -> bool:
        """Try all initial peers at once, for `Timeouts.join` seconds in all; whether one answered."""
        was_alone = not self.is_connected
        tries = {asyncio.create_task(self._try(addr)): addr for addr in self._addrs if not self._is_known(addr)}
        if not tries:
            return self.is_connected
        try:
            differences = await self._collect(tries)
        finally:
            for task in tries:
                task.cancel()
            await asyncio.gather(*tries, return_exceptions=True)
        if not differences:
            return False
        SWARM_TIME.adjust([each for each in differences if each is not None], is_first=not self._has_joined)
        self._has_joined = True
        await self.look_around()
        if was_alone and self.is_connected:
            self._tell()
        return True

    async def stay(self) -> None:
        """Keep connected, for ever; a task of the directory."""
        pause, was_connected = self._timeouts.retry_first, self.is_connected
        while True:
            await asyncio.sleep((self._timeouts.recheck if self.is_connected else pause) * _jitter())
            if self.is_connected and not was_connected:
                self._tell()  # somebody found us
            was_connected = self.is_connected
            try:
                has_found = await self.try_all()
                if was_connected and not has_found:
                    await self.look_around()
            except Exception as error:  # a periodic task: the next round may do better
                logger.warning("joining failed: %s: %s", type(error).__name__, error)
            pause = min(2 * pause, self._timeouts.retry_most)
            if self.is_connected:
                pause, was_connected = self._timeouts.retry_first, True

    async def _collect(self, tries: dict[asyncio.Task[float | None], Multiaddr]) -> list[float | None]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeouts.join
        differences: list[float | None] = []
        waiting = set(tries)
        while waiting and (left := deadline - loop.time()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    self.failures.pop(tries[task], None)
                    differences.append(task.result())
                    deadline = min(deadline, loop.time() + self._timeouts.join_grace)
                else:
                    self._note(tries[task], error)
        for task in waiting:
            self.failures[tries[task]] = f"{tries[task]}: no answer within {self._timeouts.join:g} s"
        return differences

    async def _try(self, addr: Multiaddr) -> float | None:
        return await self._node.ping(await self._peer.dial(addr, timeout=self._timeouts.join))

    async def look_around(self) -> None:
        """Search for ourselves, which makes us known to those who are near us."""
        try:
            await self._node.look_around()
        except TimeoutError:
            logger.debug("looking around took too long")

    def _is_known(self, addr: Multiaddr) -> bool:
        return self._node.knows(peer_id_of(addr))

    def _note(self, addr: Multiaddr, error: BaseException) -> None:
        text = str(error) if isinstance(error, SwarmError) else f"{addr}: no member of a swarm ({type(error).__name__})"
        if addr in self.failures and text.endswith(BACKOFF):
            return
        if self.failures.get(addr) != text:
            logger.info("initial peer not reached: %s", text)
        self.failures[addr] = text

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def _jitter() -> float:
    return 1 - _JITTER * random.random()
