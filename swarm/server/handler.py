"""The handler: what a server does with each message of its clients and of the hops before it.

Everything here runs on the event loop and returns at once, but for packing and `_send_now`, which the compute
thread calls. A refusal goes back as an Error; only bytes that break the format end the channel they came on, and
nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from swarm.errors import Busy, HopLost, HopRefused, ProtocolError, SwarmError
from swarm.log import get_logger
from swarm.network import Channel
from swarm.server.engine import Engine, Work
from swarm.server.links import Links
from swarm.server.sessions import Session, SessionTable
from swarm.types import PeerId, Span
from swarm.wire import Cancel, Close, Error, Message, Open, Opened, Prepared, Result, Step, Timing
from swarm.wire.codecs import decode_tensor, encode_tensor
from swarm.wire.encoding import error_of

logger = get_logger(__name__)

MAX_STEP_TOKENS = 4096
"""Tokens in one step: clients send chunks of some hundreds; the bound keeps one step's workspace small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What this server offers, against which requests are checked."""

    model: str
    fingerprint: str
    span: Span
    hidden_size: int
    context_length: int


class Handler:
    """Receives messages of inbound channels; its sessions end with their channels."""

    def __init__(self, served: Served, engine: Engine, sessions: SessionTable, *, is_draining: Callable[[], bool]):
        self._served = served
        self._engine = engine
        self._sessions = sessions
        self._is_draining = is_draining
        self._links: Links | None = None
        self.num_steps = 0

    def attach(self, links: Links) -> None:
        """Give the links over which outputs go on; before the first channel is served."""
        self._links = links

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        """Act on one message; nothing raised here leaves this method but `ProtocolError`."""
        match message:
            case Step():
                self._guard(channel, message.session, message.step, partial(self._step, message, body))
            case Open():
                self._guard(channel, message.session, 0, partial(self._open, channel, message))
            case Cancel():
                self._guard(channel, message.session, 0, partial(self._cancel, message))
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
        """Pass a next hop's complaint on to the client whose session it is about."""
        try:
            _send(self._sessions.get(error.session).owner, error)
        except SwarmError:
            logger.debug("an error about a session that has ended: %s", error.text)

    def lost_link(self, peer: PeerId) -> None:
        """Tell the clients whose steps may have been lost on the way to `peer`."""
        for session in self._sessions:
            if session.next_peer == peer:
                _send(session.owner, error_of(HopLost(f"lost the link to {peer}"), session=session.session_id))

    def _guard(self, channel: Channel, session: bytes, step: int, act: Callable[[], None]) -> None:
        try:
            act()
        except ProtocolError:
            raise
        except SwarmError as error:
            _send(channel, error_of(error, session=session, step=step))

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
        session = Session(
            session_id=message.session,
            owner=channel,
            span=Span(message.start, message.end),
            codec=message.codec,
            next_peer=PeerId(message.next_peer),
            next_addrs=message.next_addrs,
            last_step_at=time.monotonic(),
        )
        self._sessions.add(session)
        if session.next_peer:
            self._require_links().warm(session.next_peer, session.next_addrs)
        channel.send(Opened(message.session, self._engine.free_pages))

    def _step(self, message: Step, body: bytearray) -> None:
        arrived_at = time.monotonic()
        session = self._sessions.get(message.session)
        if message.epoch < session.epoch:
            return
        tokens = self._check(session, message)
        if self._engine.is_full:
            raise Busy("the engine's queue is full")
        hidden = decode_tensor(body, message.codec, tokens=tokens, hidden_size=self._served.hidden_size)
        session.epoch = message.epoch
        session.last_step_at = arrived_at
        session.num_received += 1
        self.num_steps += 1
        packing = _Packing(session.codec, message)
        self._engine.submit(
            Work(
                sequences=session.sequences,
                rows=message.rows,
                hidden=hidden,
                span=session.span,
                is_stale=lambda: message.epoch < session.epoch,
                keeps_all=bool(message.route),
                pack=packing,
                send_now=partial(self._send_now, session, message),
                finished=partial(self._finished, session, message),
                arrived_at=arrived_at,
            )
        )
        packing.prepare()

    def _check(self, session: Session, message: Step) -> int:
        """Return the step's tokens; one pass, for it stands between every frame and its computation."""
        if message.route and message.route[0] != session.next_peer:
            raise HopRefused(f"the session was opened with next hop {session.next_peer or 'none'}, open it again")
        rows, tokens, context = message.rows, 0, self._served.context_length
        for row in rows:
            tokens += row.length
            if row.keep > row.length:
                raise ProtocolError(f"a row of {row.length} tokens cannot keep {row.keep}")
            if row.position + row.length > context:
                raise HopRefused(f"token {row.position + row.length} is beyond the context of {context}")
        if tokens > MAX_STEP_TOKENS:
            raise HopRefused(f"a step of more than {MAX_STEP_TOKENS} tokens: send it in chunks")
        if len(rows) > 1 and len({row.sequence for row in rows}) != len(rows):
            raise ProtocolError("a step with two rows for one sequence")
        return tokens

    def _send_now(
        self, session: Session, step: Step, packed: tuple[Message, memoryview] | None, error: SwarmError | None
    ) -> bool:
        """On the compute thread: send the output, unless the loop has to, or still holds an earlier one."""
        is_allowed = error is None and session.num_left == session.num_finished
        if is_allowed and (packed is None or self._try_send_now(session, step, *packed)):
            session.num_sent_now += 1
            return True
        session.num_left += 1
        return False

    def _try_send_now(self, session: Session, step: Step, message: Message, body: memoryview) -> bool:
        if step.route:
            return self._require_links().try_send_now(session.next_peer, message, body)
        return session.owner.try_send_now(message, body)

    def _finished(
        self, session: Session, step: Step, packed: tuple[Message, memoryview] | None, error: SwarmError | None
    ) -> None:
        failed = partial(_tell_failed, session.owner, step)
        if error is not None:
            failed(error)
        elif packed is not None:
            try:
                if step.route:
                    self._require_links().send(session.next_peer, session.next_addrs, *packed, failed)
                else:
                    session.owner.send(*packed)
            except SwarmError as unsent:
                failed(unsent)
        session.num_finished += 1  # not before: the compute thread may overtake from now on

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

    def _end(self, session: Session) -> None:
        session.epoch = 1 << 63  # whatever still waits is stale
        self._engine.release(session.sequences)

    def _require_links(self) -> Links:
        assert self._links is not None
        return self._links


class _Packing:
    """Makes the message to the next hop, or from the last one to the client.

    All but the times is encoded on the loop while the step is computed; the compute thread only adds what it measured.
    """

    def __init__(self, codec: str, step: Step) -> None:
        self._codec, self._step = codec, step
        self._prepared: Prepared | None = None

    def prepare(self) -> Prepared:
        """Encode what is known before the output is."""
        step, codec = self._step, self._codec
        message: Step | Result
        if step.route:
            message = Step(step.session, step.step, step.epoch, codec, step.rows, step.route[1:])
        else:
            message = Result(step.session, step.step, codec, sum(row.keep for row in step.rows))
        self._prepared = Prepared.of(message)
        return self._prepared

    def __call__(self, work: Work, output: Tensor) -> tuple[Message, memoryview]:
        """Encode the output and the times."""
        body = encode_tensor(output, self._codec)
        prepared = self._prepared or self.prepare()
        return prepared.with_times(self._step.times + _timing(work).packed()), body


def _timing(work: Work) -> Timing:
    now = time.monotonic()
    queue, compute = work.started_at - work.arrived_at, work.ended_at - work.started_at
    return Timing(*(round(1e6 * seconds) for seconds in (queue, compute, now - work.arrived_at)))


def _tell_failed(owner: Channel, step: Step, error: SwarmError) -> None:
    _send(owner, error_of(error, session=step.session, step=step.step))


def _send(channel: Channel, message: Message) -> None:
    """Send, unless the receiver has gone: then its sessions end by `closed` anyway."""
    try:
        channel.send(message)
    except SwarmError as error:
        logger.debug("peer %s: could not send %s: %s", channel.remote, type(message).__name__, error)
