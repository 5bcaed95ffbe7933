"""The handler: what a server does with each message of its clients and of the hops before it.

Everything here runs on the event loop and returns at once. A refusal goes back as an Error; only bytes that break the
format end the channel they came on, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import partial

from swarm.blocks import PAGE_SLOTS
from swarm.errors import Busy, HopLost, HopRefused, ProtocolError, SessionLost, SwarmError
from swarm.log import get_logger
from swarm.network import Channel
from swarm.server.answers import Answers, prepare, send
from swarm.server.checks import check_step
from swarm.server.engine import Engine
from swarm.server.links import Links
from swarm.server.sessions import Session, SessionTable
from swarm.server.tally import Tally
from swarm.server.work import Work
from swarm.types import EngineStats, PeerId, Span
from swarm.wire import AskStats, Cancel, Close, Error, Find, Found, Leaving, Message, Open, Opened, Replay, Stats, Step
from swarm.wire.encoding import error_of
from swarm.wire.limits import HASH_BYTES, MAX_TEXT
from swarm.wire.messages import NO_LINEAGE

logger = get_logger(__name__)

UNUSED_TIMEOUT = 60.0
"""Seconds that a session may be open before its first step: a client takes a fraction of one."""

MAX_FINDING = 256
"""Look-ups of one session that wait: one for each prompt of a batch."""

MAX_REPLAYS = 256
"""Of one session: each may send all that it holds to a peer of the client's choice."""

STATS_AGE = 0.05
"""Seconds for which the same stats are told to everybody: whoever asks faster costs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What this server offers, against which requests are checked."""

    model: str
    fingerprint: str
    span: Span
    hidden_size: int
    context_length: int


class Handler:
    """Receives messages of inbound channels; its sessions end with their channels.

    Attributes:
        tally: What it counts into.
    """

    def __init__(
        self,
        served: Served,
        engine: Engine,
        sessions: SessionTable,
        *,
        is_draining: Callable[[], bool],
        session_timeout: float,
        tally: Tally | None = None,
    ) -> None:
        self.tally = tally or Tally()
        self._served = served
        self._engine = engine
        self._sessions = sessions
        self._is_draining = is_draining
        self._session_timeout = session_timeout
        # No session can hold more than all pages do: told at once, for no waiting would help.
        self._context_length = min(served.context_length, engine.num_pages * PAGE_SLOTS)
        self._links: Links | None = None
        self._told: Stats | None = None
        self._told_at = 0.0

    def attach(self, links: Links) -> None:
        """Give the links over which outputs go on; before the first channel is served."""
        self._links = links
        self._engine.deliver_to(Answers(links, self.tally).deliver)

    def stats(self) -> EngineStats:
        """Return what the engine does, and how many sessions are open."""
        return replace(self._engine.stats(), sessions=len(self._sessions))

    def _told_stats(self) -> Stats:
        now = time.monotonic()
        if self._told is None or now - self._told_at > STATS_AGE:
            self._told, self._told_at = Stats(astuple(self.stats())), now
        return self._told

    def expire(self, now: float) -> None:
        """End sessions that were not used for too long, and tell their clients.

        Args:
            now: Monotonic time.
        """
        for session in self._sessions:
            silent = now - session.last_step_at
            allowed = self._session_timeout if session.num_received else min(UNUSED_TIMEOUT, self._session_timeout)
            if silent > allowed and not session.steps_waiting:
                self._lose(session, SessionLost(f"the session was not used for {silent:.0f} s: open it again"))

    def hand_over(self) -> None:
        """Ask the clients of all sessions to move them elsewhere."""
        for session in self._sessions:
            send(session.owner, Leaving(session.session_id))
            self.tally.handed_over += 1

    def end_all(self, lost: SessionLost) -> None:
        """End all sessions, and tell their clients why."""
        for session in self._sessions:
            self._lose(session, lost)

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        """Act on one message; nothing raised here leaves this method but `ProtocolError`."""
        match message:
            case Step():
                self._guard(
                    self._owner(message, channel), message.session, message.step, partial(self._step, message, body)
                )
            case Open():
                self._guard(channel, message.session, 0, partial(self._open, channel, message))
            case Cancel():
                self._guard(channel, message.session, 0, partial(self._cancel, message))
            case Find():
                self._guard(channel, message.session, 0, partial(self._find, channel, message))
            case Replay():
                self._guard(channel, message.session, message.first, partial(self._replay, channel, message))
            case AskStats():
                send(channel, self._told_stats())
            case Close():
                self._close(channel, message)
            case Error():
                logger.info("peer %s says: %s", channel.remote, message.text)
            case _:
                raise ProtocolError(f"{type(message).__name__} is not for a server")

    def closed(self, channel: Channel, reason: Exception | None) -> None:
        """End all sessions that this channel opened, and free their pages."""
        for session in self._sessions.remove_owned(channel):
            self._end(session)

    def tell_client(self, error: Error) -> None:
        """Tell the client whose session it is about that the next hop complains, which the client may not have heard.

        It does so only of sessions that it does not know: for us, the way there is broken.
        """
        lost = HopLost(f"the next hop says: {error.text}"[:MAX_TEXT])
        try:
            self._tell(self._sessions.get(error.session).owner, lost, error.session, error.step)
        except SwarmError:
            logger.debug("an error about a session that has ended: %s", error.text)

    def lost_link(self, peer: PeerId) -> None:
        """Tell the clients whose steps may have been lost on the way to `peer`."""
        for session in self._sessions:
            if session.next_peer == peer:
                self._tell(session.owner, HopLost(f"lost the link to {peer}"), session.session_id)

    def _owner(self, message: Step, channel: Channel) -> Channel:
        """Who is to be told of what is wrong with a step: the session's client, where there is one."""
        return self._sessions.owner_of(message.session) or channel

    def _guard(self, channel: Channel, session: bytes, step: int, act: Callable[[], None]) -> None:
        try:
            act()
        except ProtocolError:
            raise
        except SwarmError as error:
            self._tell(channel, error, session, step)

    def _tell(self, channel: Channel, error: SwarmError, session: bytes, step: int = 0) -> None:
        self.tally.failed(error)
        send(channel, error_of(error, session=session, step=step))

    def _open(self, channel: Channel, message: Open) -> None:
        served = self._served
        if self._is_draining():
            raise HopRefused("this server is leaving and takes no new sessions")
        if (message.model, message.fingerprint) != (served.model, served.fingerprint):
            raise HopRefused(
                f"serves {served.model} with fingerprint {served.fingerprint}, "
                f"not {message.model} with {message.fingerprint}: another checkpoint"
            )
        if message.start >= message.end or not served.span.covers(Span(message.start, message.end)):
            raise HopRefused(f"serves blocks {served.span}, not {message.start}:{message.end}")
        if self._engine.is_short_of_pages:
            raise Busy("no KV page is free here and open sessions wait for some", retry_after=1.0)
        now = time.monotonic()
        session = Session(
            session_id=message.session,
            owner=channel,
            client=channel.remote,
            span=Span(message.start, message.end),
            codec=message.codec,
            next_peer=PeerId(message.next_peer),
            next_addrs=message.next_addrs,
            num_hops=message.num_hops,
            priority=message.priority,
            lineage=None if message.lineage == NO_LINEAGE else message.lineage,
            opened_at=now,
            last_step_at=now,
        )
        if session.next_peer:
            assert self._links is not None
            self._links.warm(session.next_peer, session.next_addrs)
        self._sessions.add(session)
        self.tally.opened += 1
        channel.send(Opened(message.session, self._engine.free_pages))

    def _step(self, message: Step, body: bytearray) -> None:
        arrived_at = time.monotonic()
        session = self._sessions.get(message.session)
        tokens = check_step(
            session, message, len(body), context=self._context_length, hidden_size=self._served.hidden_size
        )
        if self._engine.is_crowded and self._has_most(session.client):
            raise Busy("the engine's queue is full of your steps")
        session.epoch = max(session.epoch, message.epoch)
        session.last_step_at = arrived_at
        work = Work.of(session, message, body, tokens=tokens, arrived_at=arrived_at)
        self._engine.submit(work)
        session.num_received += 1
        session.bytes_received += work.num_bytes
        self.tally.steps += 1
        self.tally.tokens += tokens
        prepare(work)

    def _has_most(self, client: PeerId) -> bool:
        """Whether half of all that waits, steps or bytes, is one client's."""
        steps, size = self._sessions.waiting_of(client)
        return 2 * steps > self._engine.load or 2 * size > self._engine.bytes_waiting

    def _find(self, channel: Channel, message: Find) -> None:
        session = self._sessions.get(message.session)
        if session.owner is not channel:
            raise SessionLost("a session of another client")
        if session.num_finding >= MAX_FINDING:
            raise Busy(f"{session.num_finding} look-ups of this session wait here")
        hashes = [message.hashes[i : i + HASH_BYTES] for i in range(0, len(message.hashes), HASH_BYTES)]

        def found(tokens: int) -> None:
            session.num_finding -= 1
            send(channel, Found(message.session, message.sequence, tokens))

        session.num_finding += 1
        if session.lineage is None:
            found(0)
        else:
            self._engine.find(session, message.sequence, hashes, found)

    def _replay(self, channel: Channel, message: Replay) -> None:
        session = self._sessions.get(message.session)
        if session.owner is not channel:
            raise SessionLost("a session of another client")
        if session.num_replays >= MAX_REPLAYS:
            raise HopRefused(f"the hop after this one was replaced {session.num_replays} times: open the session anew")
        session.num_replays += 1
        session.epoch = max(session.epoch, message.epoch)
        session.last_step_at = time.monotonic()
        assert self._links is not None
        self._links.warm(PeerId(message.next_peer), message.next_addrs)
        session.next_peer, session.next_addrs = PeerId(message.next_peer), message.next_addrs
        self.tally.replays += 1
        failed = lambda error: self._tell(channel, error, message.session, message.first)  # noqa: E731 - used once
        self._engine.replay(session, message, failed)

    def _cancel(self, message: Cancel) -> None:
        session = self._sessions.get(message.session)
        session.epoch = max(session.epoch, message.epoch)

    def _close(self, channel: Channel, message: Close) -> None:
        try:
            session = self._sessions.get(message.session)
        except SwarmError:
            return  # closing twice, or after the end, is fine
        if session.owner is channel:
            self._sessions.remove(message.session)
            self._end(session)

    def _lose(self, session: Session, lost: SessionLost) -> None:
        self._sessions.remove(session.session_id)
        self._end(session)
        self._tell(session.owner, lost, session.session_id)

    def _end(self, session: Session) -> None:
        session.end()
        self._engine.release(session)
