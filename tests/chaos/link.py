"""A link that can be made bad: what is sent to a server's announced ports passes through here.

All links share one thread with an event loop. A link has a door for each port of its server; connections end when
either end does, in the same way (in order, or by a reset), unless the link is made to hide it.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

PIECE_BYTES = 64 * 1024
PORTS = range(20000, 30000)
"""Where servers listen behind links: below what the system gives to those who ask for any port."""


class Fault(Enum):
    """What a link does to what passes through."""

    NONE = auto()
    HELD = auto()
    """Nothing passes; it waits here, and goes on when the link is healed."""
    DROPPED = auto()
    """Bytes vanish; both ends believe that they were sent."""
    HALF_OPEN = auto()
    """The server's side is closed, the other one is not told and keeps an open connection to nobody."""
    RESET = auto()
    """Connections are reset, those that are there and those that come."""
    DRIPPING = auto()
    """A few bytes at a time."""
    FLIPPED = auto()
    """One bit of each piece is another."""


SPOILING = (Fault.DROPPED, Fault.HALF_OPEN, Fault.RESET, Fault.FLIPPED)
"""After these a connection is of no use any more."""

DRIP_BYTES, DRIP_INTERVAL = 24, 0.25


@dataclass
class Link:
    """The way to one server.

    Attributes:
        ports: Where others knock; as many as `upstream`.
        upstream: Where the server listens, once it is known.
        fault: What is wrong now; set by `suffer`.
        delay: Seconds one way.
        bytes_per_s: In each direction of a connection; 0 is unlimited.
        num_connections: That were taken.
    """

    ports: tuple[int, ...]
    upstream: tuple[int, ...]
    fault: Fault = Fault.NONE
    delay: float = 0.0
    bytes_per_s: float = 0.0
    num_connections: int = 0

    def addrs(self) -> tuple[str, ...]:
        """What the server announces: libp2p's port, and the direct one."""
        return f"/ip4/127.0.0.1/tcp/{self.ports[0]}", f"/ip4/127.0.0.1/tcp/{self.ports[1]}/tls"


class Links:
    """Makes links; a thread of its own carries them. `close` it."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._thread.start()
        self._doors: list[asyncio.Server] = []
        self._ways: dict[asyncio.Task[None], Link] = {}

    def make(self, num_ports: int = 2) -> Link:
        """Return a link whose server is not there yet."""
        link = Link((), ())

        async def open_doors() -> None:
            ports = []
            for index in range(num_ports):
                door = await asyncio.start_server(self._taker(link, index), "127.0.0.1", 0)
                self._doors.append(door)
                ports.append(door.sockets[0].getsockname()[1])
            link.ports = tuple(ports)

        self._run(open_doors())
        return link

    def make_to(self, port: int) -> Link:
        """Return a link to somebody who listens on one port."""
        link = self.make(1)
        link.upstream = (port,)
        return link

    def suffer(self, link: Link, fault: Fault) -> None:
        """Let a link have this fault from now on, or none."""
        before, link.fault = link.fault, fault
        if fault in (Fault.RESET, Fault.HALF_OPEN) or before in SPOILING:

            async def end() -> None:
                for task, of in tuple(self._ways.items()):
                    if of is link:
                        task.cancel()

            self._run(end())

    @contextmanager
    def suffering(self, link: Link, fault: Fault) -> Iterator[None]:
        """Let a link have this fault until the block is left."""
        self.suffer(link, fault)
        try:
            yield
        finally:
            self.suffer(link, Fault.NONE)

    def close(self) -> None:
        """End all connections and the thread."""

        async def end() -> None:
            for door in self._doors:
                door.close()
            for task in (tasks := tuple(self._ways)):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10.0)

    def _taker(self, link: Link, index: int) -> Callable[..., Coroutine[Any, Any, None]]:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._ways[task] = link
            link.num_connections += 1
            try:
                await self._carry(link, index, reader, writer)
            except asyncio.CancelledError:
                if link.fault is Fault.HALF_OPEN:
                    while link.fault is Fault.HALF_OPEN:
                        await asyncio.sleep(0.05)
            finally:
                del self._ways[task]
                _reset(writer)

        return take

    async def _carry(self, link: Link, index: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if link.fault is Fault.RESET or index >= len(link.upstream):
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", link.upstream[index])
        except OSError:
            return
        for each in (writer, back):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = [
            asyncio.create_task(self._pump(link, reader, back)),
            asyncio.create_task(self._pump(link, there, writer)),
        ]
        try:
            while link.fault is Fault.HALF_OPEN:  # a connection that came while nobody is there
                await asyncio.sleep(0.05)
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if all(way.exception() is None for way in ways if way.done()):
                await asyncio.wait(ways, timeout=1.0)  # one side has ended in order: the other may still have its say
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            _reset(back)

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        sending = asyncio.create_task(self._send(link, late, writer))
        free_at = 0.0
        try:
            while data := await reader.read(PIECE_BYTES):
                now = loop.time()
                if link.bytes_per_s:
                    free_at = max(free_at, now) + len(data) / link.bytes_per_s
                await late.put((max(now, free_at) + link.delay, data))
            await late.put((0.0, b""))
            await sending
        finally:
            sending.cancel()

    async def _send(self, link: Link, late: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await late.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            while link.fault in (Fault.HELD, Fault.HALF_OPEN):
                await asyncio.sleep(0.01)
            if not data:
                with suppress(OSError):
                    writer.write_eof()
                return
            if link.fault is Fault.DROPPED:
                continue
            if link.fault is Fault.FLIPPED:
                data = self._flipped(data)
            while data and link.fault is Fault.DRIPPING:
                writer.write(data[:DRIP_BYTES])
                data = data[DRIP_BYTES:]
                await asyncio.sleep(DRIP_INTERVAL)
            writer.write(data)
            await writer.drain()

    def _flipped(self, data: bytes) -> bytes:
        changed = bytearray(data)
        changed[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
        return bytes(changed)


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def free_pair() -> int:
    """Return a port that nobody uses now, and of which the next one is free too."""
    chance = random.SystemRandom()  # no seed: two runs on one machine must not choose alike
    while True:
        port = chance.choice(PORTS)
        try:
            with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + 1)):
                return port
        except OSError:
            continue
