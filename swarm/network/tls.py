"""TLS over a TCP socket, as an asyncio transport to which any thread may write.

The event loop's own TLS takes bytes from its own thread only; a thread that has just computed something would
have to wake the loop, and a sleeping one wakes slowly (docs/overhead.md). Here the loop reads, and whoever
writes calls the kernel itself.

The lock guards the SSL object, for Python does not, what is unsent, and the socket's end. Only the loop takes bytes
in, watches the socket, and calls the protocol, never with the lock held: what it calls may write.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

from swarm.network.sockets import tune

Buffer = bytes | bytearray | memoryview

_RECORD_BYTES = 16 * 1024
"""What TLS packs into one record at most."""
_PIECE_BYTES = 4 * _RECORD_BYTES
"""Given to the SSL object at once; what the kernel did not take whole must be given again as it was."""

_READS_PER_TURN = 32
"""Records taken in before other sockets of the loop have their turn: half a megabyte."""

_HIGH_WATER, _LOW_WATER = 512 * 1024, 128 * 1024
"""Unsent bytes at which the protocol is told to pause, and to go on."""
_BLOCKED = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class TlsTransport(asyncio.Transport):
    """A TLS connection over a connected socket, which it owns; `start` it.

    Args:
        close_timeout: Seconds in which `close` sends what is unsent and hears the other side's end.

    Attributes:
        ready: Done once the handshake is; failed if it did. Only after it the protocol is told of anything.

    Raises:
        OSError: The connection has ended already.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, protocol: asyncio.BufferedProtocol, *, close_timeout: float
    ) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        sock.setblocking(False)
        tune(sock)
        is_server = context.protocol is ssl.PROTOCOL_TLS_SERVER
        self._sock = context.wrap_socket(sock, server_side=is_server, do_handshake_on_connect=False)
        self._protocol = protocol
        self._close_timeout = close_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._is_connected = self._is_closing = self._is_ended = False
        self._is_goodbye_said = self._has_eof = False
        self._is_reading_paused = self._is_writing_paused = False
        self.ready: asyncio.Future[None] = self._loop.create_future()

    def start(self, *, handshake_timeout: float) -> None:
        """Begin the handshake, which ends after so many seconds."""
        self._timer = self._loop.call_later(handshake_timeout, self._end, TimeoutError("no TLS handshake in time"))
        self._loop.add_reader(self._sock, self._shake_hands)
        self._shake_hands()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the "ssl_object" or "socket"; nothing else is known."""
        return self._sock if name in ("ssl_object", "socket") else default

    def certificate(self) -> bytes:
        """Return the other side's, in DER; empty if it showed none."""
        return self._sock.getpeercert(binary_form=True) or b""

    def can_write_eof(self) -> bool:
        """Whether one direction can end alone."""
        return False

    def is_closing(self) -> bool:
        """Whether nothing more can be sent; any thread may ask."""
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the kernel has not taken; any thread may ask."""
        return self._unsent_bytes

    def writelines(self, list_of_data: Iterable[Buffer]) -> None:
        """Send these bytes with nothing of other threads between; they must not change until they are sent.

        Any thread may call it. What the kernel does not take at once is sent by the loop. Once the connection
        ends, bytes are dropped; the protocol is told of the end.
        """
        error: OSError | None = None
        with self._lock:
            if self._is_closing:
                return
            is_first = not self._unsent
            for data in list_of_data:
                if view := memoryview(data).cast("B"):
                    self._unsent.append(view)
                    self._unsent_bytes += len(view)
            if is_first:
                error = self._flush()
            if not self._unsent and error is None:
                return
        if threading.get_ident() == self._thread:
            self._after_write(error)
        else:
            self._loop.call_soon_threadsafe(self._after_write, error)

    def write(self, data: Buffer) -> None:
        """As `writelines`."""
        self.writelines((data,))

    def pause_reading(self) -> None:
        """Take nothing in until `resume_reading`."""
        self._is_reading_paused = True
        if not self._is_closing:
            self._loop.remove_reader(self._sock)

    def resume_reading(self) -> None:
        """Take bytes in again."""
        self._is_reading_paused = False
        if not self._is_closing:
            self._loop.add_reader(self._sock, self._on_readable)
            self._loop.call_soon(self._on_readable)  # some may wait inside the SSL object

    def close(self) -> None:
        """Send what is unsent, say goodbye, and end when the other side does; what it still sends is dropped."""
        if self._is_closing:
            return
        if not self._is_connected:
            self._end(None)
            return
        self._is_closing = True
        self._timer = self._loop.call_later(self._close_timeout, self._end, None)
        if not self._has_eof:
            self._loop.add_reader(self._sock, self._drop_rest)
        self._say_goodbye()

    def abort(self) -> None:
        """End at once; what is unsent is lost."""
        self._end(None)

    def _shake_hands(self) -> None:
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self._loop.remove_writer(self._sock)
        except ssl.SSLWantWriteError:
            self._loop.add_writer(self._sock, self._shake_hands)
        except OSError as error:
            self._end(error)
        else:
            self._stop_timer()
            self._loop.remove_writer(self._sock)
            self._loop.add_reader(self._sock, self._on_readable)
            self._is_connected = True
            self.ready.set_result(None)
            self._protocol.connection_made(self)
            self._on_readable()  # the first bytes may have come with the handshake's last

    def _on_readable(self) -> None:
        for _ in range(_READS_PER_TURN):
            if self._is_closing or self._is_reading_paused:
                return
            buffer = self._protocol.get_buffer(-1)
            try:
                with self._lock:
                    count = cast(int, self._sock.read(len(buffer), buffer))  # type: ignore[arg-type]
                    # Between records nothing hides in the SSL object: it reads no further than it must.
                    has_more = count == _RECORD_BYTES or self._sock.pending() > 0
            except _BLOCKED:
                return
            except OSError as error:
                self._end(error)
                return
            if not count:
                self._on_eof()
                return
            self._protocol.buffer_updated(count)
            if not has_more:
                return
        self._loop.call_soon(self._on_readable)

    def _on_eof(self) -> None:
        self._has_eof = True  # with or without a goodbye: what a cut may hide, frames show
        self._loop.remove_reader(self._sock)
        self._protocol.eof_received()
        self.close()

    def _flush(self) -> OSError | None:
        """Give the kernel what it takes; the lock is held."""
        try:
            while self._unsent:
                view = self._unsent[0]
                count = self._sock.write(view[:_PIECE_BYTES])
                self._unsent_bytes -= count
                if count == len(view):
                    self._unsent.popleft()
                else:
                    self._unsent[0] = view[count:]
        except _BLOCKED:
            return None
        except OSError as error:
            return error
        return None

    def _after_write(self, error: OSError | None) -> None:
        if error is not None:
            self._end(error)
        elif self._unsent and not self._is_ended:
            self._loop.add_writer(self._sock, self._on_writable)
            if self._unsent_bytes > _HIGH_WATER and not self._is_writing_paused:
                self._is_writing_paused = True
                self._protocol.pause_writing()

    def _on_writable(self) -> None:
        with self._lock:
            error = self._flush()
        if error is not None:
            self._end(error)
            return
        if not self._unsent:
            self._loop.remove_writer(self._sock)
        if self._unsent_bytes <= _LOW_WATER and self._is_writing_paused:
            self._is_writing_paused = False
            self._protocol.resume_writing()
        if self._is_closing:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        """Once nothing is unsent, send our end; then the other side's is waited for.

        A socket closed before would answer what still comes with a reset, which takes our last bytes back.
        """
        if self._is_goodbye_said or self._is_ended:
            return
        with self._lock:
            if self._unsent:
                return
            self._is_goodbye_said = True
            with suppress(OSError, ValueError):  # `unwrap` also wants to hear what `_drop_rest` waits for
                self._sock.unwrap()
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
        if self._has_eof:
            self._end(None)

    def _drop_rest(self) -> None:
        try:
            for _ in range(_READS_PER_TURN):
                if not socket.socket.recv(self._sock, _RECORD_BYTES):  # not decrypted: nobody will see it
                    break
            else:
                return
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        self._has_eof = True
        self._loop.remove_reader(self._sock)
        if self._is_goodbye_said:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._is_ended:
            return
        self._is_ended = self._is_closing = True
        self._stop_timer()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._loop.call_soon(self._finish, error)

    def _finish(self, error: Exception | None) -> None:
        with self._lock:  # while another thread writes, the file descriptor must not become another's
            self._unsent.clear()
            self._unsent_bytes = 0
            self._sock.close()
        if self._is_connected:
            self._protocol.connection_lost(error)
        elif not self.ready.done():
            self.ready.set_exception(error or ConnectionAbortedError("given up during the TLS handshake"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
