"""A server's life: join, choose, load, announce, serve, drain, leave."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from swarm.blocks import BlockStack
from swarm.directory import Announcer, Directory
from swarm.errors import Busy, SwarmUnreachable
from swarm.log import get_logger
from swarm.network import Closed, NetworkConfig, Peer, parse_addrs
from swarm.server.choice import Choice, choose
from swarm.server.config import ServerConfig
from swarm.server.engine import Engine
from swarm.server.handler import Handler, Served
from swarm.server.links import Links
from swarm.server.neighbours import Neighbours
from swarm.server.reachability import Reachability
from swarm.server.sessions import SessionTable
from swarm.server.throughput import Throughput, throughput_of
from swarm.types import ServerRecord, ServerState
from swarm.wire.handshake import software_version

logger = get_logger(__name__)

JOIN_TIMEOUT = 5.0
"""Seconds to wait for a swarm before choosing blocks without seeing others; it is joined later then."""

EXPIRY_INTERVAL = 5.0
"""Seconds between looks for sessions that nobody uses."""

QUIET = 5.0
"""Seconds without a step after which a session does not hold up a server that wants to leave."""


class Server:
    """One server of a swarm. `run` is all of it; the attributes are for those who look on.

    Attributes:
        peer: Our place in the network.
        reachability: How others get to us.
        choice: What we serve.
    """

    def __init__(
        self,
        config: ServerConfig,
        peer: Peer,
        reachability: Reachability,
        choice: Choice,
        engine: Engine,
        throughput: Throughput,
    ) -> None:
        self.peer = peer
        self.reachability = reachability
        self.choice = choice
        self._config = config
        self._engine = engine
        self._throughput = throughput
        self._sessions = SessionTable(config.max_sessions)
        self._state = ServerState.JOINING
        self._since = time.time()
        checkpoint = choice.checkpoint
        self._digests = tuple(checkpoint.block_digest(block) for block in range(choice.span.start, choice.span.end))
        served = Served(
            model=checkpoint.name,
            fingerprint=checkpoint.fingerprint,
            span=choice.span,
            hidden_size=checkpoint.config.hidden_size,
            context_length=checkpoint.config.context_length,
        )
        self._neighbours = Neighbours(peer, checkpoint.name, checkpoint.fingerprint, choice.span)
        self._handler = Handler(
            served,
            engine,
            self._sessions,
            is_draining=lambda: self._state is not ServerState.ONLINE,
            session_timeout=config.session_timeout,
        )

    @property
    def addrs(self) -> tuple[str, ...]:
        """Where libp2p can dial us, the most useful address first."""
        direct = {str(addr) for addr in self.peer.direct_addrs}
        return tuple(addr for addr in self.reachability.addrs if addr not in direct)

    def record(self) -> ServerRecord:
        """Return what we would announce now."""
        choice, checkpoint = self.choice, self.choice.checkpoint
        return ServerRecord(
            peer=self.peer.peer_id,
            model=checkpoint.name,
            fingerprint=checkpoint.fingerprint,
            num_blocks=checkpoint.config.num_blocks,
            span=choice.span,
            digests=self._digests,
            state=self._state,
            decode_per_s=self._throughput.decode_per_s,
            prefill_per_s=self._throughput.prefill_per_s,
            free_pages=self._engine.free_pages,
            load=self._engine.load,
            dtype=str(choice.dtype).removeprefix("torch."),
            quant=choice.quant,
            kernel=self._engine.kernel,
            addrs=self.reachability.addrs,
            public_name=self._config.public_name,
            version=software_version(),
            reach=self.reachability.reach,
            since=self._since,
            round_trips=self._neighbours.round_trips,
            expires_at=time.time() + self._config.ttl,
        )

    async def serve(self, directory: Directory, on_ready: Callable[[Server], None]) -> None:
        """Take sessions until cancelled; then drain and say goodbye.

        Args:
            directory: Where we announce ourselves.
            on_ready: Called once our record is stored in a swarm, and clients may be sent here.
        """
        announcer = Announcer(directory, ttl=self._config.ttl)
        async with asyncio.TaskGroup() as tasks:
            links = Links(self.peer, tasks, on_error=self._handler.tell_client, on_lost=self._handler.lost_link)
            self._handler.attach(links)
            await self.peer.serve(lambda channel: self._handler)
            self._state = ServerState.ONLINE
            tasks.create_task(announcer.run())
            tasks.create_task(self._keep_announced(directory, announcer))
            tasks.create_task(self._say_ready(announcer, on_ready))
            tasks.create_task(self._expire_sessions())
            if self.choice.span.end < self.choice.checkpoint.config.num_blocks:
                tasks.create_task(self._neighbours.run(directory, interval=self._config.ttl / 3))
            tasks.create_task(
                self.reachability.watch(
                    lambda: announcer.update(self.record()), lambda: directory.view(self.choice.checkpoint.name)
                )
            )
            try:
                await self.peer.wait_failed()
            finally:
                self._state = ServerState.DRAINING
                announcer.update(self.record())
                await self._drain()

    async def _keep_announced(self, directory: Directory, announcer: Announcer) -> None:
        # Alone, our own node would store the record, and we would be ready for nobody.
        while not (self._config.new_swarm or directory.is_connected):
            await _join(directory, timeout=self._config.ttl)
            await self.reachability.look()  # nobody was there for the first one
        await self.reachability.wait_looked()
        while True:
            announcer.update(self.record())
            await asyncio.sleep(self._config.ttl / 3)

    async def _say_ready(self, announcer: Announcer, on_ready: Callable[[Server], None]) -> None:
        await self.reachability.wait_routable()
        await announcer.wait_stored()
        on_ready(self)

    async def _expire_sessions(self) -> None:
        while True:
            await asyncio.sleep(min(EXPIRY_INTERVAL, self._config.session_timeout / 4))
            self._handler.expire(time.monotonic())

    async def _drain(self) -> None:
        """Have sessions moved elsewhere; those in use that stay may finish, for at most the drain timeout."""
        self._handler.hand_over()
        deadline = time.monotonic() + self._config.drain_timeout
        if len(self._sessions):
            seconds = self._config.drain_timeout
            logger.info("leaving: %d session(s) may finish, within %.0f s", len(self._sessions), seconds)
        while time.monotonic() < deadline and any(  # noqa: ASYNC110 - what is waited for is that nothing happens
            session.steps_waiting or time.monotonic() - session.last_step_at < QUIET for session in self._sessions
        ):
            await asyncio.sleep(0.1)


async def run_server(config: ServerConfig, initial_peers: tuple[str, ...], on_ready: Callable[[Server], None]) -> None:
    """Run a server until cancelled.

    Raises:
        LocalError: Something about the flags, the model or the machine; see `swarm.errors`.
    """
    addrs = parse_addrs(initial_peers)
    async with (
        Peer.open(_network(config)) as peer,
        # Hidden from the other members until we know that they reach us.
        Directory.open(peer, initial_peers=addrs, is_hidden=True) as directory,
    ):
        # Those whom we ask whether we are reachable dial us while we load.
        await peer.serve(lambda channel: Closed(Busy("the server is not up yet")))
        if addrs:
            await _join(directory, timeout=JOIN_TIMEOUT)
        async with Reachability.open(peer, directory) as reachability:
            await _serve(config, directory, peer, reachability, on_ready)


async def _serve(
    config: ServerConfig,
    directory: Directory,
    peer: Peer,
    reachability: Reachability,
    on_ready: Callable[[Server], None],
) -> None:
    # Only the compute thread may start OpenMP threads: with those of a second thread there would be more than
    # cores, and libgomp then lets each sleep between any two operations (decode takes 1.8 times as long).
    torch.set_num_threads(1)
    choice = await choose(config, directory, peer.peer_id)
    threads = config.threads or os.cpu_count() or 1
    stack = await asyncio.to_thread(_load, choice)
    with Engine(stack, stack.new_cache(choice.num_pages), threads=threads) as engine:
        gc.collect()
        gc.freeze()  # what is here now stays: going through it again stops a server for a tenth of a second
        throughput = await engine.call(lambda: throughput_of(stack, choice, config.throughput, threads=threads))
        await Server(config, peer, reachability, choice, engine, throughput).serve(directory, on_ready)


async def _join(directory: Directory, *, timeout: float) -> None:
    try:
        await directory.wait_connected(timeout)
    except SwarmUnreachable as error:
        logger.warning("no swarm yet, trying on: %s", error)


def _network(config: ServerConfig) -> NetworkConfig:
    return NetworkConfig(
        host_maddrs=config.host_maddrs or (f"/ip4/0.0.0.0/tcp/{config.port}",),
        announce_maddrs=config.announce_maddrs,
        identity_path=Path(config.identity_path) if config.identity_path else None,
    )


def _load(choice: Choice) -> BlockStack:
    with tqdm(total=len(choice.span), desc="loading", unit="block", leave=False, disable=None) as bar:

        def show(done: int, wanted: int) -> None:
            bar.update(done - bar.n)

        stack = BlockStack.load(
            choice.checkpoint,
            choice.span,
            dtype=choice.dtype,
            quant=choice.quant,
            device=choice.device,
            progress=show,
        )
    logger.info(
        "span %s of %s: %.0f MiB of packed weights, run by %s",
        choice.span,
        choice.checkpoint.name,
        stack.weight_bytes / 2**20,
        f"{stack.kernel} ({reason})" if (reason := stack.why_not_native) else stack.kernel,
    )
    return stack
