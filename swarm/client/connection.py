"""A connection to a swarm: our peer, the directory, and the sessions that go over our channels.

It lives on the bridge's loop. Models that were given the same initial peers share one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

from swarm.client.config import ClientConfig
from swarm.client.opening import HopUnusable, Model, Wanted
from swarm.client.prefixes import KnownPrefixes
from swarm.client.refusals import Refusals
from swarm.client.session import Session
from swarm.directory import Directory
from swarm.errors import BlocksMissing, Busy, ModelNotFound, SwarmError, UsageError
from swarm.log import get_logger
from swarm.network import Channel, NetworkConfig, Peer, parse_addrs
from swarm.planning import Agreement, Costs, agree, find_route, format_spans, missing_spans
from swarm.types import Hop, ModelEntry, PeerId, Span, View
from swarm.wire import Message

logger = get_logger(__name__)

POLL_INTERVAL = 0.5
"""Seconds between looks at the directory while blocks are missing."""


class Connection:
    """One peer of ours in a swarm, without blocks.

    Attributes:
        config: As given.
        prefixes: What servers may still hold for us; None if nothing is to be found again.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.prefixes = KnownPrefixes() if config.reuse_prefixes else None
        self._initial_peers = parse_addrs(config.initial_peers)
        self._peer: Peer | None = None
        self._directory: Directory | None = None
        self._sessions: dict[bytes, Session] = {}
        self._views: dict[str, tuple[float, View]] = {}
        self._task: asyncio.Task[None] | None = None
        self._pid = os.getpid()

    async def start(self) -> None:
        """Join the swarm.

        Raises:
            SwarmUnreachable: No initial peer answers within the join timeout.
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
        return self._task is not None and not self._task.done() and self._pid == os.getpid()

    async def models(self) -> tuple[ModelEntry, ...]:
        """Return the models that the swarm serves."""
        assert self._directory is not None
        return await self._directory.models()

    async def only_model(self) -> str:
        """Return the name of the swarm's only model.

        Raises:
            ModelNotFound: There is none within the coverage timeout, or more than one.
        """
        deadline = time.monotonic() + self.config.timeouts.coverage
        while True:
            names = sorted({entry.name for entry in await self.models()})
            if len(names) == 1:
                return names[0]
            if names:
                raise ModelNotFound(f"the swarm serves {', '.join(names)}: say which")
            if time.monotonic() >= deadline:
                waited = self.config.timeouts.coverage
                raise ModelNotFound(f"the swarm serves no model (waited {waited:.0f} s): start a server")
            await asyncio.sleep(POLL_INTERVAL)

    async def plan(self, model: Model, span: Span) -> tuple[Hop, ...]:
        """Return the route that a session would take now.

        Raises:
            BlocksMissing: Some blocks stayed without a server for the coverage timeout.
        """
        return (await self._plan(model, span, excluded={}))[0]

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
        refusals = Refusals(deadline)
        while True:
            now = time.monotonic()
            try:
                hops, view = await self._plan(model, span, excluded=refusals.now(now))
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

    async def _live(self, started: asyncio.Future[None]) -> None:
        try:
            network = NetworkConfig(is_listening=False)
            async with (
                Peer.open(network) as self._peer,
                Directory.open(self._peer, initial_peers=self._initial_peers, client_mode=True) as self._directory,
            ):
                await self._directory.wait_connected(self.config.timeouts.join)
                started.set_result(None)
                await asyncio.get_running_loop().create_future()
        except BaseException as error:
            if not started.done():
                started.set_exception(_first(error))
                return
            raise

    async def _plan(
        self, model: Model, span: Span, *, excluded: dict[PeerId, SwarmError]
    ) -> tuple[tuple[Hop, ...], View]:
        if self._pid != os.getpid():
            raise UsageError("this model was loaded before the process forked: load it again in this one")
        # Whoever is busy is no reason to wait here: the caller knows when to ask him again.
        is_waiting = not any(isinstance(error, Busy) for error in excluded.values())
        deadline = time.monotonic() + (self.config.timeouts.coverage if is_waiting else 0.0)
        age = self.config.view_age
        while True:
            agreement = agree(await self._view(model.name, age), model.fingerprint)
            hops = find_route(agreement.view, span, self._costs(), excluded=excluded)
            if hops is not None:
                return hops, agreement.view
            if time.monotonic() >= deadline:
                raise self._missing(model, span, agreement, excluded)
            age = 0.0
            await asyncio.sleep(POLL_INTERVAL)

    async def _view(self, model: str, age: float) -> View:
        known = self._views.get(model)
        if known is None or time.monotonic() - known[0] > age:
            assert self._directory is not None
            known = self._views[model] = (time.monotonic(), await self._directory.view(model))
        return known[1]

    def _costs(self) -> Costs:
        assert self._peer is not None
        measured = {c.remote: c.round_trip for c in self._peer.channels if c.round_trip is not None}
        return Costs(to_client=measured)

    async def _open(self, hops: tuple[Hop, ...], view: View, model: Model, wanted: Sequence[Wanted]) -> Session:
        records = {record.peer: record for record in view.records}
        addrs = [records[hop.peer].addrs for hop in hops]
        channels = await asyncio.gather(*(self._dial(hop, found) for hop, found in zip(hops, addrs, strict=True)))
        session = Session(hops, channels, model, self._codec([records[hop.peer].dtype for hop in hops]), self.config)
        self._sessions[session.session_id] = session
        try:
            await session.open(addrs, wanted)
        except BaseException:
            self.forget(session)
            raise
        return session

    async def _dial(self, hop: Hop, addrs: Sequence[str]) -> Channel:
        assert self._peer is not None
        try:
            channel = await self._peer.channel(hop.peer, addrs)
        except SwarmError as error:
            raise HopUnusable(hop.peer, error) from error
        channel.receiver = self
        return channel

    def _codec(self, dtypes: list[str]) -> str:
        if self.config.codec != "auto":
            return self.config.codec
        # The widest of the hops' dtypes carries every hop's numbers without loss.
        return dtypes[0] if len(set(dtypes)) == 1 else "float32"

    def _missing(
        self, model: Model, span: Span, agreement: Agreement, excluded: dict[PeerId, SwarmError]
    ) -> BlocksMissing:
        spans = missing_spans(agreement.view, span, excluded=excluded)
        waited = self.config.timeouts.coverage
        text = f"nobody serves blocks {format_spans(spans)} of {model.name} (waited {waited:.0f} s)"
        if agreement.others:
            others = ", ".join(f"{r.span} at {r.peer} ({r.fingerprint[:8]})" for r in agreement.others[:4])
            text += f"; not used, for they hold another checkpoint than ours ({model.fingerprint[:8]}): {others}"
        for peer, error in list(excluded.items())[:4]:
            text += f"; {peer} did not take the session: {error}"
        return BlocksMissing(text + "; start a server with --blocks for these")


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
