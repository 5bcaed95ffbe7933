"""One stream as the event loop sees it: a unix socket of our daemon, or TLS to the peer; frames in both directions.

Everything here runs in the loop's callbacks: no task and no queue stands between the socket and
whoever receives. `send` alone may be called by other threads, where the transport allows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from swarm.errors import HopLost
from swarm.log import get_logger
from swarm.network.frame_reader import FrameReader, with_length
from swarm.network.tls import TlsTransport
from swarm.wire import Message, encode, encode_prefix

Buffer = bytes | bytearray | memoryview

JOIN_BYTES = 64 * 1024
"""Up to here header and body leave in one piece: a copy is cheaper than a second system call."""

MAX_UNSENT_BYTES = 256 * 1024 * 1024
"""A peer that does not read what it asked for is cut off here; four of the largest frames."""

logger = get_logger(__name__)


class StreamOwner(Protocol):
    """Who is told what happens on a stream; all calls come from the loop."""

    def on_message(self, message: Message, body: bytearray) -> None:
        """A whole frame arrived."""
        ...

    def on_broken(self, error: Exception) -> None:
        """What arrived, or what `on_message` did with it, cannot be gone on with; the stream still is open."""
        ...

    def on_lost(self, error: Exception | None) -> None:
        """The stream ended; None if it ended in order."""
        ...


class Stream(asyncio.BufferedProtocol):
    """The protocol object of one stream.

    Args:
        on_prelude: Called with the stream and what comes before the first frame; whoever takes the frames
            must set `owner` by then. None if frames come at once.
        owner: Who is told of an end before that.

    Attributes:
        owner: Who is told of frames and of the end.
        received_at: Loop time at which bytes last came.
        sent_at: Loop time at which something was last sent.
        bytes_in: Received.
        bytes_out: Of frames sent. Threads add to it without a lock: they take turns at calls, never within the add.
        frame_began_at: Loop time of the first byte of the frame now being received, or None.
        remote_host: The IP address that the other side's connection comes from, if it dialled us and that is known.
    """

    def __init__(
        self,
        on_prelude: Callable[[Stream, bytes], None] | None,
        *,
        owner: StreamOwner | None = None,
    ) -> None:
        self.owner = owner
        self.received_at = self.sent_at = 0.0
        self.bytes_in = self.bytes_out = 0
        self.frame_began_at: float | None = None
        self.remote_host: str | None = None
        prelude = None if on_prelude is None else lambda packed: on_prelude(self, packed)
        self._reader = FrameReader(prelude, self._on_frame)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._is_lost = self._is_closing = False
        self._lost = asyncio.Event()
        self._writable: asyncio.Event | None = None

    @property
    def is_open(self) -> bool:
        """Whether frames can be sent."""
        transport = self._transport
        return transport is not None and not (self._is_lost or self._is_closing or transport.is_closing())

    @property
    def takes_from_any_thread(self) -> bool:
        """Whether `send` may be called off the loop; only our own transport allows it."""
        return isinstance(self._transport, TlsTransport)

    def send_prelude(self, prelude: bytes) -> None:
        """Send what stands before our first frame."""
        assert self._transport is not None
        self._transport.write(with_length(prelude))

    def send(self, message: Message, body: Buffer = b"") -> None:
        """Send one frame; `body` must not change until it is sent. See `takes_from_any_thread`.

        Raises:
            HopLost: The stream has ended, or the other side reads too slowly.
            ProtocolError: Header or body over their limits; nothing was sent.
        """
        self.send_all(((message, body),))

    def send_all(self, frames: Sequence[tuple[Message, Buffer]]) -> None:
        """Send frames in one piece, so that the other side is woken once; raises as `send`, nothing was sent then."""
        pieces: list[Buffer] = []
        total = heads = 0
        for message, body in frames:
            head, size = _head(message, body)
            pieces += (head, body)
            total += size
            heads += len(head)
        transport = self._require_room(total)
        if total <= JOIN_BYTES:
            transport.write(b"".join(pieces))
        else:
            transport.writelines(pieces)
        self.bytes_out += heads + total
        self.sent_at = self._loop.time()

    def _require_room(self, size: int) -> asyncio.Transport:
        transport = self._transport
        if transport is None or not self.is_open:
            raise HopLost("the stream has ended")
        if transport.get_write_buffer_size() + size > MAX_UNSENT_BYTES:
            raise HopLost(f"the peer leaves more than {MAX_UNSENT_BYTES >> 20} MiB unread")
        return transport

    async def drain(self) -> None:
        """Wait until little enough is unsent; returns as well when the stream ends."""
        if self._writable is not None:
            await self._writable.wait()

    def close(self) -> None:
        """Receive nothing any more, send what is unsent, then end with the other side's end."""
        self._reader.stop()
        if self._transport is not None and self.is_open:
            self._is_closing = True
            if self._transport.can_write_eof():
                # Not close(): the daemon would throw away what it has not passed on when the peer sends something.
                self._transport.write_eof()
            else:
                self._transport.close()

    def abort(self) -> None:
        """End at once."""
        self._reader.stop()
        if self._transport is not None:
            self._transport.abort()

    async def wait_lost(self) -> None:
        """Wait until the transport is gone."""
        await self._lost.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there (asyncio calls this)."""
        self._transport = cast(asyncio.Transport, transport)
        self.received_at = self.sent_at = self._loop.time()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the socket's next bytes go (asyncio calls this)."""
        return self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came (asyncio calls this)."""
        self.received_at = self._loop.time()
        self.bytes_in += nbytes
        try:
            self._reader.updated(nbytes)
        except Exception as error:  # whatever a peer sends ends its own stream and nothing else
            self._reader.stop()
            if self.owner is None:
                logger.debug("stream without owner: %s", error)
                self.abort()
            else:
                self.owner.on_broken(error)
        if self._reader.is_between_frames:
            self.frame_began_at = None
        elif self.frame_began_at is None:
            self.frame_began_at = self.received_at

    def eof_received(self) -> bool:
        """The other side sends no more: we end too (asyncio calls this)."""
        return False

    def pause_writing(self) -> None:
        """Too much is unsent (asyncio calls this)."""
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        """Little is unsent again (asyncio calls this)."""
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone (asyncio calls this)."""
        self._is_lost = True
        self._reader.stop()
        self.resume_writing()
        self._lost.set()
        if self.owner is not None:
            self.owner.on_lost(exc)

    def _on_frame(self, message: Message, body: bytearray) -> None:
        assert self.owner is not None
        self.owner.on_message(message, body)


def _head(message: Message, body: Buffer) -> tuple[bytes, int]:
    """Return what stands before the body, and the body's size in bytes."""
    header = encode(message)
    size = len(body) if isinstance(body, (bytes, bytearray)) else body.nbytes
    return encode_prefix(len(header), size) + header, size
