"""Whether others get to this server, how, and what its owner can do about it.

Two members of the swarm are asked to dial us back (`swarm.network.dial_back`). What they found goes into our record,
and decides whether clients are sent here at all. A server that nobody can dial looks for relays; without any it stays
out of routes, says so on its console with the remedy, and looks again from time to time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager

from swarm.directory import Directory
from swarm.errors import SwarmError
from swarm.log import get_logger
from swarm.network import Peer, Reservation, best_first
from swarm.server.verdict import Finding, announced, judge, remedy
from swarm.types import PeerId, Reach, View
from swarm.wire import DialedBack
from swarm.wire.limits import MAX_ADDRS

NUM_ASKED = 2
"""Peers whose answers are wanted: one may be beside us behind the same router, or lie."""

NUM_TRIED = 8
"""Members that are asked for these answers at most."""

NUM_RELAYS = 2
"""Relays that we keep a place at: with one left, the other's end is no gap."""

LOOK_TIMEOUT = 3.0
"""Seconds that a look may take, for a server waits for its first one before it announces itself."""

NUM_MET = 16
"""Servers that we see to it, in each round, that we are connected to without a relay."""

TICK = 15.0
"""Seconds between renewals of our places at relays, and between glances at our own addresses; both cost little."""

FIRST_PAUSE = 3.0
"""Seconds until the next look after a change; then twice as long each time, up to `LONGEST`."""

LONGEST = {Reach.DIRECT: 600.0, Reach.RELAYED: 300.0, Reach.UNREACHABLE: 300.0, Reach.UNKNOWN: 60.0}
"""Seconds between two looks at most."""

logger = get_logger(__name__)


class Reachability:
    """What we know of how others get to us. Made by `Reachability.open`.

    Attributes:
        reach: The verdict as it goes into our record.
    """

    def __init__(self, peer: Peer, directory: Directory) -> None:
        self.reach = Reach.UNKNOWN
        self._peer = peer
        self._directory = directory
        self._finding = Finding()
        self._reservations: tuple[Reservation, ...] = ()
        self._is_doubted = False
        self._woken, self._routable = asyncio.Event(), asyncio.Event()
        self._first: asyncio.Task[None] | None = None
        directory.on_joined(self._woken.set)

    @classmethod
    @asynccontextmanager
    async def open(cls, peer: Peer, directory: Directory) -> AsyncIterator[Reachability]:
        """Take a first look in the background until the block is left; `wait_looked` waits for it."""
        reachability = cls(peer, directory)
        first = reachability._first = asyncio.create_task(reachability._look_first())
        try:
            yield reachability
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    @property
    def addrs(self) -> tuple[str, ...]:
        """For our record: relays' addresses if we are relayed, else all of ours, those first that were reached."""
        if self.reach is Reach.RELAYED:
            return tuple(str(addr) for each in self._reservations for addr in each.addrs)[:MAX_ADDRS]
        return announced((*self._finding.guessed, *self._own_addrs()), self._finding.reached)[:MAX_ADDRS]

    @property
    def finding(self) -> Finding:
        """What came of the last look at which somebody could tell."""
        return self._finding

    async def wait_looked(self) -> None:
        """Wait for the first look, `LOOK_TIMEOUT` seconds at most."""
        if self._first is not None:
            await asyncio.wait((self._first,))

    async def wait_routable(self) -> None:
        """Wait until clients may be sent here: others reach us, or nobody can tell."""
        await self.wait_looked()
        await self._routable.wait()

    async def look(self) -> None:
        """Ask two members to dial us back, and draw the conclusions; without an answer nothing changes."""
        asked = await _to_ask((*self._own_addrs(), *self._finding.guessed))
        answers = await self._ask(tuple(asked))
        finding = judge(asked, list(answers.values()))
        if finding.reach is Reach.UNKNOWN:
            finding = self._finding  # nobody could tell: what was known before still counts
        if finding.reach is Reach.UNREACHABLE and self.reach is Reach.DIRECT and not self._is_doubted:
            self._is_doubted = True  # two others shall be asked before clients are sent elsewhere
            return
        self._is_doubted = False
        self._finding = finding
        if finding.reach is Reach.UNREACHABLE:
            await self._find_relays(answers)
        else:
            self._reservations = ()
        await self._conclude()

    async def watch(self, on_change: Callable[[], None], look_around: Callable[[], Awaitable[View]]) -> None:
        """Look again from time to time, and when our addresses change; a task for ever.

        Args:
            on_change: Called when the verdict or our addresses are others than before.
            look_around: Returns the other servers.
        """
        await self.wait_looked()
        pause = self._next_pause(0.0)
        due = self._now() + pause
        while True:
            is_woken = await self._sleep(min(TICK, max(0.0, due - self._now())))
            before, is_due = (self.reach, self.addrs), is_woken or self._now() >= due
            try:
                if await self._peer.refresh_addrs() or is_due:
                    await self.look()
                elif self._reservations:
                    await self._renew()
                if self._reservations:
                    await self._meet(await look_around())
            except Exception as error:  # a periodic task: the next round may do better
                logger.warning("cannot see whether we are reachable: %s: %s", type(error).__name__, error)
            is_changed = before != (self.reach, self.addrs)
            if is_changed:
                on_change()
            if is_changed or is_due:
                pause = self._next_pause(0.0 if is_changed or self._is_doubted else pause)
                due = self._now() + pause

    def _next_pause(self, pause: float) -> float:
        if self.reach is Reach.DIRECT and not self._is_doubted:
            return LONGEST[self.reach] * random.uniform(0.75, 1.0)
        return min(max(2 * pause, FIRST_PAUSE), LONGEST[self.reach])

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _own_addrs(self) -> tuple[str, ...]:
        libp2p, direct = (best_first(addrs) for addrs in (self._peer.addrs, self._peer.direct_addrs))
        # As many of each as fit: a machine of many interfaces must not crowd out one of the two ways in.
        return tuple(str(addr) for addr in (*libp2p[: MAX_ADDRS // 2], *direct[: MAX_ADDRS // 2]))

    async def _ask(self, addrs: Sequence[str]) -> dict[PeerId, DialedBack]:
        """Return what members found who tried; as many as answered in time."""
        members = [peer for peer in self._directory.members if peer != self._peer.peer_id]
        waiting = iter(random.sample(members, min(NUM_TRIED, len(members))))
        answers: dict[PeerId, DialedBack] = {}
        try:
            async with asyncio.timeout(LOOK_TIMEOUT), asyncio.TaskGroup() as tasks:
                for _ in range(NUM_ASKED):
                    tasks.create_task(self._ask_one(waiting, addrs, answers))
        except TimeoutError:
            logger.debug("%d of %d members dialled us back in time", len(answers), NUM_ASKED)
        return answers

    async def _ask_one(
        self, waiting: Iterator[PeerId], addrs: Sequence[str], answers: dict[PeerId, DialedBack]
    ) -> None:
        for member in waiting:
            try:
                answer = await self._peer.ask_dial_back(member, addrs)
            except SwarmError as error:
                logger.debug("peer %s: does not dial us back: %s", member, error)
                continue
            if answer.seen:
                answers[member] = answer
                return
            logger.debug("peer %s: does not dial us back: %s", member, answer.text)

    async def _look_first(self) -> None:
        try:
            await self.look()
        except Exception as error:  # whatever it is, the server goes on; the next look may do better
            logger.warning("cannot see whether we are reachable: %s: %s", type(error).__name__, error)
            self._routable.set()

    async def _find_relays(self, answers: dict[PeerId, DialedBack]) -> None:
        """Reserve places: at the relays that we have, then at whoever answered, then at other members."""
        if not self._peer.config.use_relays:
            return
        known = [each.relay for each in self._reservations]
        members = list(self._directory.members)
        random.shuffle(members)
        candidates = [peer for peer in dict.fromkeys((*known, *answers, *members)) if peer != self._peer.peer_id]
        self._reservations = await self._reserve(candidates[:NUM_TRIED])

    async def _renew(self) -> None:
        """Keep our places at relays; look for others if one is gone."""
        kept = await self._reserve([each.relay for each in self._reservations])
        is_fewer = len(kept) < len(self._reservations)
        self._reservations = kept
        if is_fewer:
            await self._find_relays({})
        await self._conclude()

    async def _meet(self, view: View) -> None:
        """Dial the servers that can be dialled: those that came through our relay would for ever talk to us through it.

        It gives us other relays, too, for nobody relays for one who comes through a relay.
        """
        open_ones = [record for record in view.records if record.reach is Reach.DIRECT]
        for record in random.sample(open_ones, min(NUM_MET, len(open_ones))):
            try:
                await self._peer.meet(record.peer, record.addrs)
            except SwarmError as error:
                logger.debug("%s", error)

    async def _reserve(self, candidates: Sequence[PeerId]) -> tuple[Reservation, ...]:
        found: list[Reservation] = []
        for relay in candidates:
            if len(found) == NUM_RELAYS:
                break
            try:
                found.append(await self._peer.reserve(relay))
            except SwarmError as error:
                logger.info("no place at a relay: %s", error)
        return tuple(found)

    async def _conclude(self) -> None:
        reach = Reach.RELAYED if self._reservations else self._finding.reach
        if reach is not self.reach:
            self.reach = reach
            if reach is Reach.DIRECT:
                logger.info("others reach us at %s", ", ".join(self._finding.reached))
            else:
                ports = tuple(str(addr) for addr in (*self._peer.addrs, *self._peer.direct_addrs))
                logger.warning("%s", remedy(reach, self._finding, ports))
        if reach is Reach.UNREACHABLE:
            self._routable.clear()
        else:
            self._routable.set()
        await self._directory.hide(not self._finding.takes_calls)

    async def _sleep(self, seconds: float) -> bool:
        """Wait, or until we met others; whether that was it."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True


async def _to_ask(addrs: Iterable[str]) -> dict[str, str]:
    """Return the addresses to ask about, each with the one that we announce: names become IP addresses.

    Nobody would look up a name for us: a name that a stranger gives may lead anywhere.
    """
    asked: dict[str, str] = {}
    for addr in addrs:
        kind, host, rest = addr[1:].split("/", 2)
        for found in await _look_up(host) if kind.startswith("dns") else [host]:
            version = "ip6" if ":" in found else "ip4"
            asked[f"/{version if kind.startswith('dns') else kind}/{found}/{rest}"] = addr
    return dict(list(asked.items())[:MAX_ADDRS])


async def _look_up(host: str) -> list[str]:
    try:
        async with asyncio.timeout(1.0):
            found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except (OSError, TimeoutError):
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
