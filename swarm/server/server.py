"""A server's life: join, choose, and then what its placement says: claim, load, serve, move; at the end drain, leave.

What serves a span is a `Holding`; a server has one at a time. The peer, its links, its record and what is known of its
reachability are the server's, and stay when the span changes.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import torch

from swarm.directory import Announcer, Directory
from swarm.errors import Busy, SwarmUnreachable
from swarm.log import get_logger
from swarm.membership import Joined
from swarm.network import Closed, NetworkConfig, Peer, parse_addrs
from swarm.planning import Act, Decision, agree
from swarm.server.choice import Choice, choose
from swarm.server.config import ServerConfig
from swarm.server.face.console import tell_start
from swarm.server.holding import Holding
from swarm.server.links import Links
from swarm.server.neighbours import Neighbours
from swarm.server.placing import Freedom, Placing
from swarm.server.reachability import Reachability
from swarm.server.reception import Reception
from swarm.server.throughput import Throughput
from swarm.swarm_key import SwarmKey
from swarm.types import ServerRecord, ServerState, Span, View
from swarm.wire.handshake import software_version

logger = get_logger(__name__)

JOIN_TIMEOUT = 5.0
"""Seconds to wait for a swarm before choosing blocks without seeing others; it is joined later then."""

EXPIRY_INTERVAL = 5.0
"""Seconds between looks for sessions that nobody uses."""

STORE_TIMEOUT = 10.0
"""Seconds that what we do next may wait until what we announced is stored."""

SHORT_LOAD = 2.0
"""Seconds of loading of which nobody needs to be told: the next record says that we serve."""


class Server:
    """One server of a swarm. `run` is all of it; the attributes are for those who look on.

    Attributes:
        peer: Our place in the network.
        reachability: How others get to us.
        choice: What we serve, or are about to.
        announcer: Tells the swarm of us.
        reception: What clients talk to; knows what was done.
    """

    def __init__(
        self, config: ServerConfig, peer: Peer, directory: Directory, reachability: Reachability, choice: Choice
    ) -> None:
        self.peer = peer
        self.reachability = reachability
        self.choice = choice
        self._config = config
        self._directory = directory
        self.announcer = Announcer(directory, ttl=config.ttl)
        self.reception = Reception()
        self._holding: Holding | None = None
        self._throughput = Throughput(0.0, 0.0)
        # Since ever: whoever places itself need not wait for us to think again.
        self._standing = Decision(act=Act.LOAD, state=ServerState.JOINING, span=choice.span, since=0.0)
        self._has_joined = False
        self._is_up = asyncio.Event()

    @property
    def addrs(self) -> tuple[str, ...]:
        """Where libp2p can dial us, the most useful address first."""
        direct = {str(addr) for addr in self.peer.direct_addrs}
        return tuple(addr for addr in self.reachability.addrs if addr not in direct)

    @property
    def sees_others(self) -> bool:
        """Whether we have joined a swarm."""
        return self._directory.is_connected

    def record(self) -> ServerRecord:
        """Return what we would announce now."""
        choice, checkpoint, standing = self.choice, self.choice.checkpoint, self._standing
        holding = self._holding if self._holding is not None and self._holding.span == standing.span else None
        return ServerRecord(
            peer=self.peer.peer_id,
            model=checkpoint.name,
            fingerprint=checkpoint.fingerprint,
            num_blocks=checkpoint.config.num_blocks,
            span=standing.span,
            digests=holding.digests if holding is not None else ("",) * len(standing.span),
            state=standing.state,
            decode_per_s=self._throughput.decode_per_s,
            prefill_per_s=self._throughput.prefill_per_s,
            free_pages=holding.engine.free_pages if holding is not None else 0,
            load=holding.engine.load if holding is not None else 0,
            dtype=str(choice.dtype).removeprefix("torch."),
            quant=choice.quant,
            kernel=holding.engine.kernel if holding is not None else "",
            addrs=self.reachability.addrs,
            public_name=self._config.public_name,
            version=software_version(),
            reach=self.reachability.reach,
            since=standing.since,
            round_trips=holding.round_trips if holding is not None else (),
            expires_at=time.time() + self._config.ttl,
            next_span=standing.next_span,
        )

    async def serve(self, on_ready: Callable[[Server], None]) -> None:
        """Take sessions until cancelled; then drain and say goodbye.

        Args:
            on_ready: Called once our record is stored in a swarm, and clients may be sent here.

        Raises:
            LocalError: Blocks cannot be loaded.
        """
        is_whole = len(self.choice.span) == self.choice.checkpoint.config.num_blocks
        freedom = Freedom.of(self._config.blocks, is_whole=is_whole)
        placing = Placing(self.record(), self, freedom=freedom, ttl=self._config.ttl)
        async with asyncio.TaskGroup() as self._tasks:
            tasks = self._tasks
            self._links = Links(self.peer, tasks, on_error=self.reception.tell_client, on_lost=self.reception.lost_link)
            await self.peer.serve(lambda channel: self.reception)
            tasks.create_task(self.announcer.run())
            tasks.create_task(self._keep_announced())
            tasks.create_task(self._say_ready(on_ready))
            tasks.create_task(self._expire_sessions())
            tasks.create_task(self.reachability.watch(self._tell, self._view))
            placed = tasks.create_task(placing.run())
            try:
                await self.peer.wait_failed()
            finally:
                await self._leave(placed)

    async def announce(self, decision: Decision) -> bool:
        """Announce what was decided, and wait `STORE_TIMEOUT` seconds until that is stored; whether it is."""
        if decision.state is ServerState.ONLINE:
            await self.reachability.wait_looked()  # clients shall not be sent where they cannot come
        before, self._standing = self._standing, decision
        if before.announced != decision.announced:
            self._tell()
        if decision.state is ServerState.ONLINE:
            self._is_up.set()
        try:
            async with asyncio.timeout(STORE_TIMEOUT):
                await self.announcer.wait_stored()
        except TimeoutError:
            return False
        return True

    async def look(self) -> View:
        """Return the servers of our checkpoint: another one under its name covers nothing for us."""
        return agree(await self._view(), self.choice.checkpoint.fingerprint).view

    async def drain(self) -> None:
        """Have our sessions moved elsewhere; those in use that stay may finish, for at most the drain timeout."""
        if self._holding is not None:
            await self._holding.drain()

    async def load(self, span: Span) -> float:
        """Serve `span`, and nothing else, from now on; return its tokens/s through one block.

        What was served before is given up first: there need not be memory for both.

        Raises:
            LocalError: It cannot be loaded; nothing is served.

        Cancelled: likewise.
        """
        await self._give_up()
        self.choice = choice = replace(self.choice, span=span)
        holding = await Holding.open(
            choice, self._config, self._links, is_draining=self._is_draining, tally=self.reception.tally
        )
        self._holding, self._throughput = holding, holding.throughput
        self.reception.handler = holding.handler
        if span.end < choice.checkpoint.config.num_blocks:
            neighbours = Neighbours(self.peer, choice.checkpoint.name, choice.checkpoint.fingerprint, span)
            holding.measure_neighbours(neighbours, self._directory, self._tasks)
        return holding.throughput.decode_per_s

    async def _give_up(self) -> None:
        holding, self._holding = self._holding, None
        if holding is not None:
            await holding.close()
            self.reception.handler = None
            del holding
            gc.collect()

    async def _leave(self, placed: asyncio.Task[None]) -> None:
        placed.cancel()
        await asyncio.wait((placed,))
        if self._holding is not None:
            self._standing = replace(self._standing, state=ServerState.DRAINING, next_span=None)
            self._tell()
            await self._holding.drain()
        await self._give_up()

    def _is_draining(self) -> bool:
        return self._standing.state is not ServerState.ONLINE

    async def _view(self) -> View:
        return await self._directory.view(self.choice.checkpoint.name)

    def _tell(self) -> None:
        """Announce how things are, once there is a swarm: alone, our own node would store it, and others would not."""
        self._has_joined = self._has_joined or self._config.new_swarm or self._directory.is_connected
        if self._has_joined:
            self.announcer.update(self.record())

    async def _keep_announced(self) -> None:
        while not (self._config.new_swarm or self._directory.is_connected):
            await _join(self._directory, timeout=self._config.ttl)
            await self.reachability.look()  # nobody was there for the first one
        is_late = self._is_up.is_set()
        with suppress(TimeoutError):
            async with asyncio.timeout(SHORT_LOAD):
                await self._is_up.wait()
        if is_late or not self._is_up.is_set():
            self._tell()
        while True:
            await asyncio.sleep(self._config.ttl / 3)
            self._tell()

    async def _say_ready(self, on_ready: Callable[[Server], None]) -> None:
        await self._is_up.wait()
        await self.reachability.wait_routable()
        await self.announcer.wait_stored()
        on_ready(self)

    async def _expire_sessions(self) -> None:
        while True:
            await asyncio.sleep(min(EXPIRY_INTERVAL, self._config.session_timeout / 4))
            if self._holding is not None:
                self._holding.expire_sessions()


async def run_server(
    config: ServerConfig,
    joined: Joined,
    on_ready: Callable[[Server], None],
    around: Callable[[Server, Directory], AbstractAsyncContextManager[None]] = lambda *_: nullcontext(),
) -> None:
    """Run a server until cancelled, with `around`, that looks on, around its life.

    Raises:
        LocalError: Something about the flags, the model or the machine; see `swarm.errors`.
    """
    addrs = parse_addrs(joined.peers)
    async with (
        Peer.open(_network(config, joined.key)) as peer,
        # Hidden from the other members until we know that they reach us.
        Directory.open(peer, initial_peers=addrs, is_hidden=True) as directory,
    ):
        # Those whom we ask whether we are reachable dial us while we load.
        await peer.serve(lambda channel: Closed(Busy("the server is not up yet")))
        tell_start(config, peer, directory)
        if addrs:
            await _join(directory, timeout=JOIN_TIMEOUT)
        async with Reachability.open(peer, directory) as reachability:
            # Only the compute thread may start OpenMP threads: with those of a second thread there would be more than
            # cores, and libgomp then lets each sleep between any two operations (decode takes 1.8 times as long).
            torch.set_num_threads(1)
            choice = await choose(config, directory)
            server = Server(config, peer, directory, reachability, choice)
            async with around(server, directory):
                await server.serve(on_ready)


async def _join(directory: Directory, *, timeout: float) -> None:
    try:
        await directory.wait_connected(timeout)
    except SwarmUnreachable as error:
        logger.warning("no swarm yet, trying on: %s", error)


def _network(config: ServerConfig, key: SwarmKey | None) -> NetworkConfig:
    return NetworkConfig(
        host_maddrs=config.host_maddrs or (f"/ip4/0.0.0.0/tcp/{config.port}",),
        announce_maddrs=config.announce_maddrs,
        identity_path=Path(config.identity_path) if config.identity_path else None,
        swarm_key=key,
    )
