"""Joining the swarm through its initial peers, and staying joined.

Dead initial peers cost a bounded time and never the start. While nobody is there, tries go on with
growing pauses; once connected, lost initial peers are tried from time to time, so that parts of a
swarm that were apart grow together. Members met in an earlier life, or earlier in this one, are
asked only while nobody is there, and none of the initial peers answers within a moment.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence

from multiaddr import Multiaddr

from swarm.directory.config import Timeouts
from swarm.directory.gate import is_of_another_swarm
from swarm.directory.node import Node
from swarm.directory.swarm_time import SWARM_TIME
from swarm.errors import SwarmError, WrongSwarmKey
from swarm.log import get_logger
from swarm.network import Peer, peer_id_of
from swarm.network.dialling import BACKOFF

_JITTER = 0.25
"""Each pause is up to a quarter shorter, by chance: peers that lost a bootstrap at once return one by one."""

NUM_RESERVE = 8
"""Members met before that are tried in each round; some of them have gone."""

Tries = dict[asyncio.Task[float | None], Multiaddr]

logger = get_logger(__name__)


class Joining:
    """The way into the swarm, and back.

    Args:
        met_before: Tells the addresses of other members than the initial peers.

    Attributes:
        failures: Why each initial peer was not reached in the last try.
    """

    def __init__(
        self,
        peer: Peer,
        node: Node,
        addrs: Sequence[Multiaddr],
        timeouts: Timeouts,
        met_before: Callable[[], Sequence[Multiaddr]],
    ) -> None:
        self._peer = peer
        self._node = node
        self._addrs = tuple(addr for addr in addrs if peer_id_of(addr) != peer.peer_id)
        self._timeouts = timeouts
        self._met_before = met_before
        self._strangers: set[Multiaddr] = set()
        self._has_joined = False
        self._listeners: list[Callable[[], None]] = []
        self.failures: dict[Multiaddr, str] = {}

    @property
    def is_connected(self) -> bool:
        """Whether we know another node of the DHT."""
        return self._node.num_neighbours > 0

    @property
    def is_refused(self) -> bool:
        """Whether some initial peer is of another swarm, and nobody is of ours."""
        return bool(self._strangers) and not self.is_connected

    @property
    def is_hopeless(self) -> bool:
        """Whether all of the initial peers are of another swarm, and nobody is of ours: waiting will not help."""
        return self.is_refused and self._strangers == set(self._addrs)

    def on_joined(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever we were alone and are no more."""
        self._listeners.append(listener)

    async def try_all(self) -> bool:
        """Try all initial peers at once, for `Timeouts.join` seconds in all; whether somebody answered.

        While we are alone, members met before are tried as well, once no initial peer answers for a moment.
        """
        was_alone = not self.is_connected
        tries = self._begin(addr for addr in self._addrs if not self._is_known(addr))
        reserve = self._reserve() if was_alone else []
        if not tries and not reserve:
            return self.is_connected
        try:
            differences = await self._collect(tries, reserve)
        finally:
            for task in tries:
                task.cancel()
            await asyncio.gather(*tries, return_exceptions=True)
        if not differences:
            return False
        SWARM_TIME.adjust([each for each in differences.values() if each is not None], is_first=not self._has_joined)
        self._has_joined = True
        if not self.is_connected:  # who lets members in counts on their time, which we had to be told first
            await asyncio.gather(*map(self._try, differences), return_exceptions=True)
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

    async def _collect(self, tries: Tries, reserve: Sequence[Multiaddr]) -> dict[Multiaddr, float | None]:
        """Return how far ahead the clocks are of those who answered; `tries` grows by the reserve, if it is needed."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline, patience = began + self._timeouts.join, began + self._timeouts.patience
        differences: dict[Multiaddr, float | None] = {}
        waiting = set(tries)
        while True:
            if reserve and not differences and (not waiting or loop.time() >= patience):
                more, reserve = self._begin(reserve), ()
                tries |= more
                waiting |= set(more)
            if not waiting or (left := deadline - loop.time()) <= 0:
                break
            pause = min(left, max(0.0, patience - loop.time())) if reserve and not differences else left
            done, waiting = await asyncio.wait(waiting, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                addr, error = tries[task], task.exception()
                self._note(addr, error)
                if error is None:
                    differences[addr] = task.result()
                    deadline = min(deadline, loop.time() + self._timeouts.join_grace)
        for task in waiting:
            if (addr := tries[task]) in self._addrs:
                self.failures[addr] = f"{addr}: no answer within {self._timeouts.join:g} s"
        return differences

    def _begin(self, addrs: Iterable[Multiaddr]) -> Tries:
        return {asyncio.create_task(self._try(addr)): addr for addr in addrs}

    def _reserve(self) -> list[Multiaddr]:
        """Some of the members met before."""
        known = {self._peer.peer_id, *map(peer_id_of, self._addrs)}
        met = [addr for addr in self._met_before() if peer_id_of(addr) not in known]
        return random.sample(met, min(NUM_RESERVE, len(met)))

    async def _try(self, addr: Multiaddr) -> float | None:
        peer = await self._peer.dial(addr, timeout=self._timeouts.join)
        try:
            return await self._node.ping(peer)
        except Exception as error:
            if is_of_another_swarm(error):
                await self._peer.greet(peer)  # which says whether that is the key's fault
            raise

    async def look_around(self) -> None:
        """Search for ourselves, which makes us known to those who are near us."""
        try:
            await self._node.look_around()
        except TimeoutError:
            logger.debug("looking around took too long")

    def _is_known(self, addr: Multiaddr) -> bool:
        return self._node.knows(peer_id_of(addr))

    def _note(self, addr: Multiaddr, error: BaseException | None) -> None:
        if addr not in self._addrs:
            logger.debug("a member met before: %s: %s", addr, error or "answers")
            return
        self._strangers.discard(addr)
        if error is None:
            self.failures.pop(addr, None)
            return
        text = str(error) if isinstance(error, SwarmError) else f"{addr}: no member of a swarm ({type(error).__name__})"
        if isinstance(error, WrongSwarmKey):
            self._strangers.add(addr)
            text = f"{addr}: {error}"
        if addr in self.failures and text.endswith(BACKOFF):
            return
        if self.failures.get(addr) != text:
            level = logging.WARNING if isinstance(error, WrongSwarmKey) else logging.INFO
            logger.log(level, "initial peer not reached: %s", text)
        self.failures[addr] = text

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


def _jitter() -> float:
    return 1 - _JITTER * random.random()
