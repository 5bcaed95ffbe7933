"""A holding: one span's blocks, engine, sessions and neighbours, from loaded to given up.

A server that moves ends one and begins another; what both have in common, the peer, its links and its record, stays
with the server.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable
from functools import partial

from swarm.directory import Directory
from swarm.errors import SessionLost
from swarm.log import get_logger
from swarm.server.choice import Choice
from swarm.server.config import ServerConfig
from swarm.server.engine import Engine
from swarm.server.handler import Handler, Served
from swarm.server.links import Links
from swarm.server.loading import load
from swarm.server.neighbours import Neighbours
from swarm.server.sessions import SessionTable
from swarm.server.tally import Tally
from swarm.server.throughput import Throughput, throughput_of
from swarm.types import PeerId, Span

logger = get_logger(__name__)

QUIET = 5.0
"""Seconds without a step after which a session does not hold up a server that wants to leave."""


class Holding:
    """What serves one span. Made by `Holding.open`, ended by `close`.

    Attributes:
        span: The blocks.
        digests: Of each block, in order.
        throughput: Measured, recalled or told.
        engine: It runs them.
        handler: Where messages go.
    """

    def __init__(
        self,
        choice: Choice,
        digests: tuple[str, ...],
        engine: Engine,
        throughput: Throughput,
        config: ServerConfig,
        is_draining: Callable[[], bool],
        tally: Tally | None = None,
    ) -> None:
        self.span: Span = choice.span
        self.digests = digests
        self.engine = engine
        self.throughput = throughput
        self._config = config
        self._sessions = SessionTable(config.max_sessions)
        self._neighbours: Neighbours | None = None
        self._measuring: asyncio.Task[None] | None = None
        checkpoint = choice.checkpoint
        served = Served(
            model=checkpoint.name,
            fingerprint=checkpoint.fingerprint,
            span=choice.span,
            hidden_size=checkpoint.config.hidden_size,
            context_length=checkpoint.config.context_length,
        )
        self.handler = Handler(
            served,
            engine,
            self._sessions,
            is_draining=is_draining,
            session_timeout=config.session_timeout,
            tally=tally,
        )

    @classmethod
    async def open(
        cls,
        choice: Choice,
        config: ServerConfig,
        links: Links,
        *,
        is_draining: Callable[[], bool],
        tally: Tally | None = None,
    ) -> Holding:
        """Load what was chosen, and be ready for sessions; what is done then is counted in `tally`.

        Raises:
            LocalError: As `swarm.server.loading.load`.

        Cancelled: nothing is left behind.
        """
        loaded, threads = await load(choice), config.threads or os.cpu_count() or 1
        engine = Engine(loaded.stack, loaded.cache, threads=threads)
        engine.start()
        try:
            measure = partial(throughput_of, loaded.stack, choice, config.throughput, threads=threads)
            throughput = await engine.call(measure)
        except BaseException:
            engine.close()
            raise
        holding = cls(choice, loaded.digests, engine, throughput, config, is_draining, tally)
        holding.handler.attach(links)
        if tally is not None:
            tally.loads += 1
        gc.collect()
        gc.freeze()  # what is here now stays: going through it again stops a server for a tenth of a second
        return holding

    @property
    def round_trips(self) -> tuple[tuple[PeerId, float], ...]:
        """Round trips to servers that may come next, for our record."""
        return () if self._neighbours is None else self._neighbours.round_trips

    def measure_neighbours(self, neighbours: Neighbours, directory: Directory, tasks: asyncio.TaskGroup) -> None:
        """Go on measuring these until the end."""
        self._neighbours = neighbours
        self._measuring = tasks.create_task(neighbours.run(directory, interval=self._config.ttl / 3))

    def expire_sessions(self) -> None:
        """End sessions that nobody uses."""
        self.handler.expire(time.monotonic())

    async def drain(self) -> None:
        """Have sessions moved elsewhere; those in use that stay may finish, for at most the drain timeout."""
        self.handler.hand_over()
        seconds = self._config.drain_timeout
        deadline = time.monotonic() + seconds
        if len(self._sessions):
            logger.info("leaving %s: %d session(s) may finish, within %.0f s", self.span, len(self._sessions), seconds)
        while time.monotonic() < deadline and any(  # noqa: ASYNC110 - what is waited for is that nothing happens
            session.steps_waiting or time.monotonic() - session.last_step_at < QUIET for session in self._sessions
        ):
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        """End the sessions that are left, telling their clients, and the compute thread; give the memory back.

        Whoever drops its last reference after that has freed the blocks.
        """
        self.handler.end_all(SessionLost(f"this server gives up blocks {self.span}: open the session elsewhere"))
        if self._measuring is not None:
            self._measuring.cancel()
            await asyncio.wait((self._measuring,))
        if self._neighbours is not None:
            self._neighbours.close()
        await asyncio.to_thread(self.engine.close)
        gc.unfreeze()  # what was to stay is to go
