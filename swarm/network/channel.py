"""A channel: the one long-lived framed stream from a dialling peer to a dialled one.

All sessions between the two go through it, told apart by their ids inside the messages. It begins
with the dialler's Hello, which the other side answers with its own, or with an Error (see
`swarm.network.greeting`). Both send at least a Ping per `heartbeat_interval`, so that whoever hears
nothing for `heartbeat_timeout` knows: the other side is frozen, or the line is dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from time import perf_counter
from typing import Protocol

from swarm.errors import HopLost, HopTimeout, ProtocolError, SwarmError, from_code
from swarm.log import get_logger
from swarm.network.config import Timeouts
from swarm.network.greeting import Greeting
from swarm.network.stream import Buffer, Stream
from swarm.types import PeerId
from swarm.wire import DialBack, DialedBack, Error, Hello, Message, Ping, Pong, Proof
from swarm.wire.encoding import error_of
from swarm.wire.messages import NO_SESSION

_SMOOTHING = 0.25
"""Weight of the latest round trip in the average."""

_ROUND_TRIP_EVERY = 5
"""On a busy channel the round trip is measured once in so many heartbeat intervals."""

logger = get_logger(__name__)


class Receiver(Protocol):
    """Who owns the messages of a channel. Both are called on the loop, in order, and must not block."""

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        """A message came. A `SwarmError` raised here closes the channel, and is told to the peer."""
        ...

    def closed(self, channel: Channel, reason: Exception | None) -> None:
        """The channel ended; None if one of both sides closed it in order."""
        ...


OnDialBack = Callable[["Channel", DialBack | DialedBack], None]
"""Takes what is said about dialling back: like heartbeats, that is the network's own affair."""


class Channel:
    """One end of a channel; made by `Peer`.

    Attributes:
        remote: The other side's peer id, which the transport has proved.
        is_dialled: Whether we dialled; else the other side did.
        receiver: Who gets the messages; what comes before it is set is dropped.
        round_trip: Seconds from a Ping to its Pong, smoothed; None until the first.
        hello: The other side's Hello; None before it came, and before what belongs to it is proved.
    """

    def __init__(
        self,
        stream: Stream,
        remote: PeerId,
        *,
        is_dialled: bool,
        greeting: Greeting,
        timeouts: Timeouts,
        on_ready: Callable[[Channel], None],
        on_gone: Callable[[Channel], None],
        on_dial_back: OnDialBack,
    ) -> None:
        self.remote = remote
        self.is_dialled = is_dialled
        self.receiver: Receiver | None = None
        self.round_trip: float | None = None
        self._stream = stream
        self.hello: Hello | None = None
        self._greeting = greeting
        self._timeouts = timeouts
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._on_dial_back = on_dial_back
        self._reason: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._nonces = count()
        self._pinged: tuple[int, float] | None = None
        self._measured_at = 0.0
        self._hello_timer: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Channel {'to' if self.is_dialled else 'from'} {self.remote[-6:]} {state}>"

    @property
    def is_open(self) -> bool:
        """Whether Hellos were exchanged and messages can be sent."""
        return self.hello is not None and self._stream.is_open

    @property
    def traffic(self) -> tuple[str, int, int]:
        """Its carrier (`direct`: TLS between the two processes, or `libp2p`), bytes received, and bytes sent."""
        carrier = "direct" if self._stream.takes_from_any_thread else "libp2p"
        return carrier, self._stream.bytes_in, self._stream.bytes_out

    @property
    def remote_host(self) -> str | None:
        """The IP address that the other side dialled us from; None if we dialled, or a relay stands between."""
        return self._stream.remote_host

    @property
    def reason(self) -> Exception | None:
        """Why the channel ended; None while it lives, or if it was closed in order."""
        return self._reason

    @property
    def heard_at(self) -> float:
        """Loop time at which bytes last came."""
        return self._stream.received_at

    def start(self) -> None:
        """Take over the stream; whoever dialled says Hello, the other side answers it."""
        self._stream.owner = self
        self._hello_timer = self._loop.call_later(self._timeouts.hello, self._on_no_hello)
        if self.is_dialled:
            self._stream.send(self._greeting.begin())

    def send(self, message: Message, body: Buffer = b"") -> None:
        """Send a message; ordered, never waits. `body` must not change until it is sent (see `drain`).

        Raises:
            HopLost: The channel is closed.
            ProtocolError: The message is over a limit of the wire; nothing was sent.
        """
        try:
            self._stream.send(message, body)
        except HopLost as error:
            why = self._reason or error
            if self._stream.is_open:
                self.abort(error)
            raise HopLost(f"channel to {self.remote} is closed: {why}") from error

    def try_send_now(self, frames: Sequence[tuple[Message, Buffer]]) -> bool:
        """Send messages in one piece from any thread; False if none was: the loop has to send them, or nobody can.

        Frames of several threads leave whole, each behind those whose `send` had returned before.
        """
        if not (self._stream.takes_from_any_thread and self.is_open):
            return False
        try:
            self._stream.send_all(frames)
        except SwarmError:
            return False  # `send` says why
        return True

    async def drain(self) -> None:
        """Wait until the peer has taken most of what was sent; returns as well when the channel ends."""
        await self._stream.drain()

    async def close(self) -> None:
        """Send what is unsent and end the channel; what the peer still sends is dropped. Idempotent."""
        self._stream.close()
        try:
            async with asyncio.timeout(self._timeouts.close):
                await self._stream.wait_lost()
        except TimeoutError:
            self._stream.abort()
            await self._stream.wait_lost()

    def abort(self, reason: Exception | None = None) -> None:
        """End the channel at once; `reason` is what the receiver is told."""
        self._reason = self._reason or reason
        self._stream.abort()

    async def wait_closed(self) -> Exception | None:
        """Wait until the channel has ended; return why."""
        await self._ended.wait()
        return self._reason

    def beat(self, now: float) -> None:
        """Notice a dead peer, and show that we live; called about twice per heartbeat interval.

        Args:
            now: Loop time.
        """
        stream, timeouts = self._stream, self._timeouts
        silent = now - stream.received_at
        if silent > timeouts.heartbeat_timeout:
            self.abort(HopTimeout(f"peer {self.remote} is silent for {silent:.1f} s"))
        elif stream.frame_began_at is not None and now - stream.frame_began_at > timeouts.frame:
            self.abort(HopTimeout(f"peer {self.remote} needs more than {timeouts.frame:.0f} s for one frame"))
        elif self.is_open and self._is_ping_due(now):
            self._ping(now)

    def ping(self) -> None:
        """Ask for a sign of life, which shows in `heard_at`; does nothing on a channel that is closed."""
        if self.is_open:
            with suppress(HopLost):
                self._ping(self._loop.time())

    def forgive(self, seconds: float) -> None:
        """Do not count so many seconds as the peer's silence: our own loop stood still."""
        self._stream.received_at += seconds
        if self._stream.frame_began_at is not None:
            self._stream.frame_began_at += seconds

    def on_message(self, message: Message, body: bytearray) -> None:
        """A frame came (the stream calls this)."""
        if self.hello is None:
            self._shake_hands(message)
        elif isinstance(message, Ping):
            self._stream.send(Pong(message.nonce))
        elif isinstance(message, Pong):
            self._on_pong(message)
        elif isinstance(message, Error) and message.session == NO_SESSION:
            self.abort(_told(message))
        elif isinstance(message, (Hello, Proof)):
            raise ProtocolError(f"a second {type(message).__name__}")
        elif isinstance(message, (DialBack, DialedBack)):
            self._on_dial_back(self, message)
        elif self.receiver is not None:
            self.receiver.received(self, message, body)
        else:
            logger.debug("peer %s: %s dropped, nobody receives", self.remote, type(message).__name__)

    def on_broken(self, error: Exception) -> None:
        """Bytes or a message that cannot be gone on with (the stream calls this)."""
        if not self._stream.is_open:
            return
        if isinstance(error, SwarmError):
            logger.warning("peer %s: channel closed: %s", self.remote, error)
        else:
            logger.error("peer %s: channel closed by a fault of ours", self.remote, exc_info=error)
        self._reason = self._reason or error
        with suppress(HopLost):
            self._stream.send(error_of(error))
        self._stream.close()

    def on_lost(self, error: Exception | None) -> None:
        """The stream is gone (the stream calls this)."""
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        if self._reason is None and error is not None:
            self._reason = HopLost(f"channel to {self.remote} broke: {error}")
        self._ended.set()
        self._on_gone(self)
        if self.receiver is not None:
            self.receiver.closed(self, self._reason)

    def _shake_hands(self, message: Message) -> None:
        if isinstance(message, Error):
            self.abort(_told(message))
            return
        answer = self._greeting.answer(message)
        if answer is not None:
            self._stream.send(answer)
        self.hello = self._greeting.hello
        if self.hello is None:
            return  # it still has to prove something
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        self._on_ready(self)
        if self.is_open:
            self._ping(self._loop.time())

    def _on_no_hello(self) -> None:
        self.abort(HopTimeout(f"peer {self.remote} says no Hello within {self._timeouts.hello} s"))

    def _is_ping_due(self, now: float) -> bool:
        interval = self._timeouts.heartbeat_interval
        is_silent = now - self._stream.sent_at >= interval
        return is_silent or now - self._measured_at >= _ROUND_TRIP_EVERY * interval

    def _ping(self, now: float) -> None:
        nonce = next(self._nonces)
        if self._pinged is None:  # else the line is slower than our heartbeat: the first Ping's answer counts
            # Not the loop's time: uvloop's only counts whole milliseconds.
            self._pinged, self._measured_at = (nonce, perf_counter()), now
        self._stream.send(Ping(nonce))

    def _on_pong(self, pong: Pong) -> None:
        if self._pinged is None or self._pinged[0] != pong.nonce:
            return
        latest = perf_counter() - self._pinged[1]
        self._pinged = None
        old = self.round_trip
        self.round_trip = latest if old is None else old + _SMOOTHING * (latest - old)


def _told(message: Error) -> SwarmError:
    return from_code(message.code, f"the peer says: {message.text}", retry_after=message.retry_after)
