"""A connection to a swarm: our peer, the directory, and the sessions that go over our channels.

It lives on the bridge's loop. Models that were given the same initial peers share one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

from torch import Tensor

from swarm.client.config import ClientConfig
from swarm.client.legs import Leg, numerics_of
from swarm.client.mending import Mender
from swarm.client.opening import HopUnusable, Model, Wanted
from swarm.client.prefixes import KnownPrefixes
from swarm.client.refusals import Refusals
from swarm.client.routes import POLL_INTERVAL, Routes, Stretch
from swarm.client.scouting import MAX_MEASURED_ROUTES, Scout
from swarm.client.session import Session
from swarm.client.step_run import StepRun
from swarm.client.upkeep import Upkeep
from swarm.directory import Directory
from swarm.errors import BlocksMissing, Busy, HopLeaving, HopLost, SwarmError, SwarmUnreachable, UsageError
from swarm.log import get_logger
from swarm.network import Channel, NetworkConfig, Peer, parse_addrs
from swarm.types import Hop, ModelEntry, ServerRecord, Span, View
from swarm.wire import Message, Row

logger = get_logger(__name__)


class Connection:
    """One peer of ours in a swarm, without blocks.

    Attributes:
        config: As given.
        ended: Why we are in the swarm no more, for good; None while we are.
        prefixes: What servers may still hold for us; None if nothing is to be found again.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.prefixes = KnownPrefixes() if config.reuse_prefixes else None
        self._initial_peers = parse_addrs(config.initial_peers)
        self._peer: Peer | None = None
        self._directory: Directory | None = None
        self._sessions: dict[bytes, Session] = {}
        self._routes: Routes | None = None
        self._mender: Mender | None = None
        self._upkeep: Upkeep | None = None
        self._task: asyncio.Task[None] | None = None
        self.ended: SwarmError | None = None
        self._pid = os.getpid()

    async def start(self) -> None:
        """Join the swarm.

        Raises:
            SwarmUnreachable, WrongSwarmKey: No initial peer answers within the join timeout, or none is of our swarm.
        """
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(started))
        await started

    async def close(self) -> None:
        """Leave: all sessions end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def is_alive(self) -> bool:
        """Whether we are still in the swarm: our daemon may have died, or this be a forked child."""
        return self._task is not None and self.ended is None and self._pid == os.getpid()

    async def models(self) -> tuple[ModelEntry, ...]:
        """Return the models that the swarm serves."""
        assert self._directory is not None
        return await self._directory.models()

    async def view(self, model: Model) -> View:
        """Return who serves this very checkpoint, as seen lately.

        Raises:
            SwarmUnreachable: Nobody answers; silence is no news of the servers.
            SwarmError: Anything else is what ended the connection, for good.
        """
        if self.ended is not None:
            raise self.ended
        view = (await self.routes.agreement(model)).view
        assert self._directory is not None
        if not self._directory.is_connected:
            raise SwarmUnreachable("nobody of the swarm answers any more")
        return view

    async def plan(self, model: Model, span: Span) -> tuple[Hop, ...]:
        """Return the route that a session would take now.

        Raises:
            BlocksMissing: Some blocks stayed without a server for the coverage timeout.
        """
        return (await self._plan(model, span, Refusals(0.0, self.config.timeouts.coverage)))[0]

    async def open_session(self, model: Model, span: Span, wanted: Sequence[Wanted] = ()) -> Session:
        """Open a session through `span`, over the best route whose hops accept.

        A busy hop is asked again when it said, while other routes are tried.

        Args:
            model: What to run.
            span: Its blocks.
            wanted: What sequences are to begin with, where hops still hold it; see `Session.open`.

        Raises:
            BlocksMissing: As `plan`; names the blocks, the wait, and the hops that refused.
            Busy: The only servers of some blocks were busy for `Timeouts.busy` seconds.
        """
        deadline = time.monotonic() + self.config.timeouts.busy
        refusals = Refusals(deadline, self.config.timeouts.coverage)
        while True:
            now = time.monotonic()
            try:
                hops, view = await self._plan(model, span, refusals)
            except BlocksMissing:
                until = refusals.until(now)
                if until is None:
                    raise
                await asyncio.sleep(until - time.monotonic())
                continue
            try:
                return await self._open(hops, view, model, wanted)
            except HopUnusable as failed:
                logger.info("hop %s does not take the session: %s", failed.peer, failed.error)
                now = time.monotonic()
                if isinstance(failed.error, Busy) and now > deadline:
                    raise failed.error from failed
                refusals.add(failed.peer, failed.error, now)
                self.mender.ban(failed.peer, failed.error)

    async def step(
        self, session: Session, rows: Sequence[Row], hidden: Tensor, hashes: Sequence[Sequence[bytes]] | None = None
    ) -> Tensor:
        """Run a step of a session, whatever happens to its hops; see `StepRun`.

        Raises:
            BlocksMissing: Blocks were lost and nobody serves them.
            SwarmError: What no other hop can do better, or could not for `Timeouts.mend` seconds.

        Cancelled: the step may or may not have been run.
        """
        run = StepRun(session, rows, hidden, hashes)
        while True:
            try:
                if session.wants_mending:
                    raise session.broken or HopLeaving("a hop is leaving")
                return await run.go_on()
            except SwarmError as error:
                await self.mender.mend(session, error, run.pending)

    def forget(self, session: Session) -> None:
        """Close a session and drop it."""
        session.close()
        self._sessions.pop(session.session_id, None)

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        """Hand a message to the session it is about."""
        session = self._sessions.get(getattr(message, "session", b""))
        if session is not None:
            session.received(channel, message, body)

    def closed(self, channel: Channel, reason: Exception | None) -> None:
        """Tell the sessions whose hop is gone."""
        for session in list(self._sessions.values()):
            if session.uses(channel):
                session.lost(channel, reason)

    def _join(self, peer: Peer, directory: Directory) -> None:
        """Take our place in a swarm."""
        self._peer, self._directory = peer, directory
        self._routes = Routes(directory, peer, self.config)
        self._mender = Mender(self._routes, self._dial, self.config)
        scout = Scout(self._routes, peer, self)
        self._upkeep = Upkeep(self._sessions, self._routes, self._mender, scout)

    async def _live(self, started: asyncio.Future[None]) -> None:
        try:
            network = NetworkConfig(is_listening=False, swarm_key=self.config.key)
            async with (
                Peer.open(network) as self._peer,
                Directory.open(self._peer, initial_peers=self._initial_peers, client_mode=True) as self._directory,
            ):
                await self._directory.wait_connected(self.config.timeouts.join)
                self._join(self._peer, self._directory)
                started.set_result(None)
                try:
                    await self.upkeep.run()
                finally:
                    self._end(self._peer.failure or HopLost("the connection to the swarm was closed"))
        except BaseException as error:
            if not started.done():
                started.set_exception(_first(error))
                return
            raise

    def _end(self, error: SwarmError) -> None:
        """Let all that is under way, and whatever is asked for later, end with this: there is nobody to wait for."""
        self.ended = error
        for session in self._sessions.values():
            session.close(error)

    @property
    def routes(self) -> Routes:
        """The ways that we know."""
        assert self._routes is not None
        return self._routes

    @property
    def mender(self) -> Mender:
        """Who replaces hops."""
        assert self._mender is not None
        return self._mender

    @property
    def upkeep(self) -> Upkeep:
        """Who looks after the sessions."""
        assert self._upkeep is not None
        return self._upkeep

    async def _plan(self, model: Model, span: Span, refusals: Refusals) -> tuple[tuple[Hop, ...], View]:
        if self._pid != os.getpid():
            raise UsageError("this model was loaded before the process forked: load it again in this one")
        began = refusals.patient_since or time.monotonic()
        deadline = began + self.config.timeouts.coverage
        age: float | None = None
        await self.upkeep.scout_first(model, span)
        while True:
            if self.ended is not None:
                raise self.ended
            agreement = await self.routes.agreement(model, age=age)
            refused = refusals.now(time.monotonic())
            hops = self.routes.find(agreement.view, Stretch(span=span), refused)
            for _ in range(MAX_MEASURED_ROUTES):
                if hops is None or not await self.upkeep.measure(hops, agreement.view):
                    break
                hops = self.routes.find(agreement.view, Stretch(span=span), refused)
            if hops is not None:
                return hops, agreement.view
            # Whoever is busy is no reason to wait here: the caller knows when to ask him again.
            if time.monotonic() >= deadline or any(isinstance(error, Busy) for error in refused.values()):
                raise self.routes.missing(model, span, agreement, refused, time.monotonic() - began)
            age = 0.0
            await asyncio.sleep(POLL_INTERVAL)

    async def _open(self, hops: tuple[Hop, ...], view: View, model: Model, wanted: Sequence[Wanted]) -> Session:
        legs = await self._dial(hops, view)
        records = {record.peer: record for record in view.records}
        session = Session(legs, model, self._codec([records[hop.peer].dtype for hop in hops]), self.config)
        self._sessions[session.session_id] = session
        try:
            await session.open(wanted)
        except BaseException:
            self.forget(session)
            raise
        return session

    async def _dial(self, hops: Sequence[Hop], view: View) -> list[Leg]:
        records = {record.peer: record for record in view.records}
        found = [records[hop.peer] for hop in hops]
        channels = await asyncio.gather(*(self._channel(record) for record in found))
        return [
            Leg(hop, channel, record.addrs, numerics_of(record))
            for hop, channel, record in zip(hops, channels, found, strict=True)
        ]

    async def _channel(self, record: ServerRecord) -> Channel:
        assert self._peer is not None
        try:
            channel = await self._peer.channel(record.peer, record.addrs)
        except SwarmError as error:
            raise HopUnusable(record.peer, error) from error
        channel.receiver = self
        return channel

    def _codec(self, dtypes: list[str]) -> str:
        if self.config.codec != "auto":
            return self.config.codec
        # The widest of the hops' dtypes carries every hop's numbers without loss.
        return dtypes[0] if len(set(dtypes)) == 1 else "float32"


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
