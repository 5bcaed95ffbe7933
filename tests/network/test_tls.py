"""Our TLS transport against Python's blocking `ssl`, `openssl`, and bytes that come as they like."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest

from swarm.errors import HopLost
from swarm.network import Identity, stream
from swarm.network.direct import _CLIENT_CONTEXT, _server_context
from swarm.network.stream import Stream
from swarm.network.tls import TlsTransport
from tests.network.ends import result

CERTIFICATE, _KEY = Identity.load(None).certificate()
SERVER_CONTEXT = _server_context(CERTIFICATE, _KEY)


class Sink(asyncio.BufferedProtocol):
    """Keeps what comes, counts the ends, and remembers pauses."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.ends: list[Exception | None] = []
        self.pauses: list[str] = []
        self.heard = asyncio.Event()
        self._buffer = bytearray(32 * 1024)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.got += self._buffer[:nbytes]
        self.heard.set()

    def pause_writing(self) -> None:
        self.pauses.append("pause")

    def resume_writing(self) -> None:
        self.pauses.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.ends.append(exc)
        self.heard.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.heard.clear()
                await self.heard.wait()


@asynccontextmanager
async def served(
    protocol: asyncio.BufferedProtocol, **settings: float
) -> AsyncIterator[tuple[TlsTransport, socket.socket]]:
    """Our server end, and the plain TCP socket at the other side of it."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        far = socket.create_connection(door.getsockname())
        near, _ = door.accept()
    timeout = settings.pop("handshake_timeout", 5.0)
    transport = TlsTransport(near, SERVER_CONTEXT, protocol, close_timeout=settings.pop("close_timeout", 5.0))
    transport.start(handshake_timeout=timeout)
    try:
        yield transport, far
    finally:
        transport.abort()
        with suppress(OSError):
            far.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def talking(
    protocol: asyncio.BufferedProtocol, **settings: float
) -> AsyncIterator[tuple[TlsTransport, ssl.SSLSocket]]:
    """Our server end, and a blocking client of Python's, hands shaken."""
    async with served(protocol, **settings) as (transport, far):
        client = await asyncio.to_thread(_CLIENT_CONTEXT.wrap_socket, far)
        await transport.ready
        try:
            yield transport, client
        finally:
            client.close()


def read_all(client: ssl.SSLSocket) -> bytes:
    received = bytearray()
    while piece := client.recv(1 << 16):
        received += piece
    return bytes(received)


def read_exactly(client: ssl.SSLSocket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count and (piece := client.recv(min(1 << 16, count - len(received)))):
        received += piece
    return bytes(received)


@contextmanager
def threads(*jobs: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Run each job in a thread of its own; gives what they raised."""
    raised: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            raised.append(error)

    running = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in running:
        thread.start()
    yield raised
    for thread in running:
        thread.join(20)
        assert not thread.is_alive()


async def test_eight_megabytes_pass_in_both_directions_at_once() -> None:
    sink, there, back = Sink(), os.urandom(8 << 20), os.urandom(8 << 20)
    async with talking(sink) as (transport, client):
        transport.write(back)
        assert transport.get_write_buffer_size() > 0
        assert sink.pauses == ["pause"]
        reading = asyncio.create_task(asyncio.to_thread(read_exactly, client, len(back)))
        await asyncio.sleep(0.01)
        assert await reading == back
        await asyncio.to_thread(client.sendall, there)
        await sink.until(lambda: len(sink.got) == len(there))
        assert sink.got == there
        assert sink.pauses == ["pause", "resume"]
        assert transport.get_write_buffer_size() == 0


async def test_both_ends_of_ours_exchange_while_both_write_more_than_sockets_hold() -> None:
    first, second, body = Sink(), Sink(), os.urandom(8 << 20)
    async with served(first) as (server, far):
        client = TlsTransport(far, _CLIENT_CONTEXT, second, close_timeout=5.0)
        client.start(handshake_timeout=5.0)
        await client.ready
        assert client.certificate() == CERTIFICATE
        await server.ready
        for transport in (server, client):
            transport.writelines([b"head", body, b"", b"tail"])
        for sink in (first, second):
            await sink.until(lambda sink=sink: len(sink.got) == len(body) + 8)  # type: ignore[misc]
            assert sink.got == b"head" + body + b"tail"
        client.close()
        await first.until(lambda: first.ends)
        await second.until(lambda: second.ends)
        assert first.ends == second.ends == [None]


async def test_bytes_that_come_one_by_one_are_put_together() -> None:
    sink = Sink()
    async with served(sink) as (transport, far):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        peer = _CLIENT_CONTEXT.wrap_bio(incoming, outgoing)
        far.setblocking(False)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()

        async def dribble() -> None:
            for byte in outgoing.read():
                await loop.sock_sendall(far, bytes([byte]))
                await asyncio.sleep(0)

        while True:
            try:
                peer.do_handshake()
                break
            except ssl.SSLWantReadError:
                await dribble()
                incoming.write(await loop.sock_recv(far, 1 << 16))
        peer.write(b"one by one")
        await dribble()
        await sink.until(lambda: len(sink.got) == 10)
        assert sink.got == b"one by one"
        await transport.ready


async def test_records_that_come_with_the_end_of_the_handshake_are_not_left_inside() -> None:
    sink, text = Sink(), os.urandom(100_000)
    async with served(sink) as (_, far):

        def talk() -> ssl.SSLSocket:
            client = _CLIENT_CONTEXT.wrap_socket(far)
            client.sendall(text)
            return client

        client = await asyncio.to_thread(talk)
        await sink.until(lambda: len(sink.got) == len(text))
        assert sink.got == text
        client.close()


async def test_an_end_without_goodbye_ends_us_after_what_is_unsent() -> None:
    sink, body = Sink(), os.urandom(4 << 20)
    async with talking(sink) as (transport, client):
        transport.write(body)
        socket.socket.shutdown(client, socket.SHUT_WR)
        assert await asyncio.to_thread(read_exactly, client, len(body)) == body
        await sink.until(lambda: sink.ends)
        assert sink.ends == [None]
        transport.write(b"too late")
        assert transport.is_closing() and transport.get_write_buffer_size() == 0


async def test_a_goodbye_is_answered() -> None:
    sink = Sink()
    async with talking(sink) as (_, client):
        await asyncio.to_thread(client.sendall, b"last words")
        await asyncio.to_thread(client.unwrap)  # raises unless it hears ours
        await sink.until(lambda: sink.ends)
        assert sink.ends == [None] and sink.got == b"last words"


async def test_closing_sends_what_is_unsent_and_drops_what_still_comes() -> None:
    sink, body = Sink(), os.urandom(4 << 20)
    async with talking(sink) as (transport, client):
        transport.write(body)
        transport.close()
        transport.close()
        await asyncio.to_thread(client.sendall, b"x" * (1 << 16))
        assert await asyncio.to_thread(read_all, client) == body
        client.close()
        await sink.until(lambda: sink.ends)
        assert sink.ends == [None] and not sink.got


async def test_a_peer_that_never_ends_is_left_after_the_time_to_close() -> None:
    sink = Sink()
    async with talking(sink, close_timeout=0.05) as (transport, client):
        transport.write(os.urandom(16 << 20))
        transport.close()
        await sink.until(lambda: sink.ends)
        assert sink.ends == [None]
        with suppress(OSError):
            while await asyncio.to_thread(client.recv, 1 << 16):
                pass


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n\r\n", None])
async def test_a_handshake_that_is_none_fails_in_time(sent: bytes | None) -> None:
    sink = Sink()
    async with served(sink, handshake_timeout=0.1) as (transport, far):
        if sent is None:
            far.close()
        else:
            far.sendall(sent)
        with pytest.raises(OSError):
            await asyncio.wait_for(transport.ready, 5)
        assert transport.is_closing() and sink.ends == []


async def test_a_peer_that_stops_reading_is_cut_off_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_UNSENT_BYTES", 16 << 20)
    ours = Stream(None)
    async with talking(ours) as (transport, client):
        assert ours.takes_from_any_thread
        body = bytes(3 << 20)

        def send() -> None:
            for step in range(20):
                ours.send(result(step), body)

        with pytest.raises(HopLost, match="unread"):
            await asyncio.to_thread(send)
        assert (16 << 20) - len(body) <= transport.get_write_buffer_size() <= 16 << 20
        await asyncio.wait_for(asyncio.sleep(0.01), 5)
        drained = asyncio.create_task(ours.drain())
        await asyncio.sleep(0.01)
        assert not drained.done()
        client.close()
        await asyncio.wait_for(drained, 5)


async def test_frames_of_several_threads_never_interleave() -> None:
    count, sizes = 150, (0, 5, 3_000, 70_000, 200_000)
    sink = Sink()
    async with talking(sink) as (transport, client):

        def frames(letter: int) -> Iterator[tuple[bytes, bytes]]:
            for index in range(count):
                size = sizes[(letter + index) % len(sizes)]
                yield bytes([letter]) + index.to_bytes(3, "big") + size.to_bytes(4, "big"), bytes([letter]) * size

        def write(letter: int) -> None:
            for frame in frames(letter):
                transport.writelines(frame)

        def echo() -> None:
            for _ in range(200):
                client.sendall(b"ping" * 100)

        total = sum(len(head) + len(body) for letter in (1, 2, 3) for head, body in frames(letter))
        with threads(lambda: write(1), lambda: write(2), echo) as raised:
            reading = asyncio.create_task(asyncio.to_thread(read_exactly, client, total))
            for frame in frames(3):
                transport.writelines(frame)
                await asyncio.sleep(0)
            received = await asyncio.wait_for(reading, 20)
            await sink.until(lambda: len(sink.got) == 200 * 400)
        assert raised == [] and sink.ends == []
    expected = {letter: list(frames(letter)) for letter in (1, 2, 3)}
    got: dict[int, list[tuple[bytes, bytes]]] = {1: [], 2: [], 3: []}
    at = 0
    while at < total:
        head, size = received[at : at + 8], int.from_bytes(received[at + 4 : at + 8], "big")
        got[head[0]].append((head, received[at + 8 : at + 8 + size]))
        at += 8 + size
    assert got == expected


@pytest.mark.parametrize("end", ["abort", "close", "peer"])
async def test_an_end_while_another_thread_writes_is_told_once_and_harms_no_writer(end: str) -> None:
    for _ in range(10):
        sink, is_over = Sink(), threading.Event()
        async with talking(sink, close_timeout=0.1) as (transport, client):

            def write(transport: TlsTransport = transport, is_over: threading.Event = is_over) -> None:
                while not is_over.is_set():
                    if transport.get_write_buffer_size() < 1 << 20:
                        transport.writelines([b"head", bytes(100_000)])

            with threads(write, lambda client=client: read_exactly(client, 2 << 20)) as raised:
                await asyncio.sleep(0.003)
                if end == "peer":
                    socket.socket.shutdown(client, socket.SHUT_RDWR)
                else:
                    getattr(transport, end)()
                await sink.until(lambda sink=sink: sink.ends)  # type: ignore[misc]
                await asyncio.sleep(0.01)
                is_over.set()
                assert len(sink.ends) == 1 and transport.is_closing()
            assert [error for error in raised if not isinstance(error, OSError)] == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")
async def test_new_keys_in_mid_stream_change_nothing() -> None:
    sink = Sink()
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setblocking(False)
        child = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-tls1_3", "-connect", f"127.0.0.1:{door.getsockname()[1]}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        near, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(door), 10)
    assert child.stdin is not None and child.stdout is not None
    transport = TlsTransport(near, SERVER_CONTEXT, sink, close_timeout=1.0)
    transport.start(handshake_timeout=5.0)
    await transport.ready
    for turn, command in enumerate((b"K\n", b"k\n", b"K\n")):
        child.stdin.write(b"line %d\n" % turn)
        await sink.until(lambda turn=turn: sink.got.endswith(b"line %d\n" % turn))  # type: ignore[misc]
        child.stdin.write(command)
        transport.write(b"answer %d\n" % turn)
        await asyncio.wait_for(child.stdout.readuntil(b"answer %d\n" % turn), 10)
        await asyncio.sleep(0.05)  # lines that openssl reads at once are one text, without commands
    assert sink.got == b"line 0\nline 1\nline 2\n"
    child.kill()
    await child.wait()
    await sink.until(lambda: sink.ends)
