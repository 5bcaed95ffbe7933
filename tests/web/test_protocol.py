"""Connections whose other end takes nothing, or sends what is no HTTP, against a real server."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from aiohttp import web
from yarl import URL

from swarm.web import Keys, guard, protocol, serving

SMALL = 4096
"""Bytes of the buffers of both ends' systems, so that what is not taken stays in the process."""

Loop = Callable[[], asyncio.AbstractEventLoop]
Scene = Callable[[], Coroutine[Any, Any, None]]

KEY = "a-key-of-this-test"


class Server:
    """What the server's side of a test knows."""

    def __init__(self) -> None:
        self.at = URL()
        self.made: list[Any] = []

    @property
    def num_open(self) -> int:
        """Connections that are still files of the process."""
        return len({each for handler in self.made if handler._manager for each in handler._manager.connections})

    async def send(self, request: web.Request) -> web.Response:
        """Answer with as many bytes as the path says."""
        self.made.append(request.protocol)
        assert request.transport is not None
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        return web.Response(body=bytes(int(request.match_info["size"])))

    async def wait_open(self, number: int) -> None:
        async with asyncio.timeout(10):
            while self.num_open != number:
                await asyncio.sleep(0.01)

    async def connect(self, *asked: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send some requests in one piece, and read nothing by itself."""
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, (str(self.at.host), int(self.at.port or 0)))
        reader, writer = await asyncio.open_connection(sock=plain, limit=SMALL)
        writer.write(
            "".join(
                f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n"
                for path, _, more in (each.partition(" ") for each in asked)
            ).encode()
        )
        return reader, writer


@asynccontextmanager
async def server() -> AsyncIterator[Server]:
    known, app = Server(), web.Application()
    app.router.add_get("/{size}", known.send)
    async with serving(app, host="127.0.0.1", port=0) as url:
        known.at = URL(url)
        yield known


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def played(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Scene], None]:
    monkeypatch.setattr(protocol, "STALL", 0.4)
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 3)

    def play(scene: Scene) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(scene())

    return play


def test_who_asks_much_and_reads_nothing_is_let_go(played: Callable[[Scene], None]) -> None:
    async def scene() -> None:
        async with server() as there:
            stuck = [await there.connect(*["/300000"] * 3) for _ in range(3)]
            await there.wait_open(3)
            reader, writer = await there.connect("/5")
            assert await asyncio.wait_for(reader.read(), 5) == b"", "all three are answered just now"
            await there.wait_open(0)
            for _, each in (*stuck, (reader, writer)):
                each.close()
            reader, writer = await there.connect("/5 Connection: close\r\n")
            assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200")
            writer.close()

    played(scene)


def test_what_an_ended_answer_left_unread_is_given_up(played: Callable[[Scene], None]) -> None:
    async def scene() -> None:
        async with server() as there:
            _, ended = await there.connect("/50000 Connection: close\r\n")  # less than what a writer waits for
            await there.wait_open(1)
            await asyncio.sleep(0.2)
            assert there.num_open == 1, "there is a while for it"
            await there.wait_open(0)
            idle = [await there.connect("/50000") for _ in range(3)]
            await there.wait_open(3)
            await asyncio.sleep(0.1)
            began = time.monotonic()
            reader, writer = await there.connect("/5 Connection: close\r\n")
            assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200"), "idle ones give way"
            await there.wait_open(2)
            assert time.monotonic() - began < 0.35, "at once, whatever they have not read"
            for _, each in (*idle, (reader, writer), (reader, ended)):
                each.close()

    played(scene)


def test_a_slow_reader_who_goes_on_reading_gets_all(
    played: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LEAST", 1024)

    async def scene() -> None:
        async with server() as there:
            reader, writer = await there.connect("/300000 Connection: close\r\n")
            began, taken = time.monotonic(), 0
            while got := await reader.read(SMALL):
                taken += len(got)
                await asyncio.sleep(0.02)
            assert taken > 300_000 and time.monotonic() - began > 2 * protocol.STALL
            writer.close()

    played(scene)


@asynccontextmanager
async def guarded(*keys: str) -> AsyncIterator[Callable[[str, bytes], Coroutine[Any, Any, int]]]:
    """Yields what sends a request with these header lines and this body, and returns the status."""
    app = web.Application(middlewares=[guard(Keys(keys))])

    async def read(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    app.router.add_post("/", read)
    async with serving(app, host="127.0.0.1", port=0) as url:

        async def ask(lines: str, body: bytes = b"") -> int:
            reader, writer = await asyncio.open_connection(URL(url).host, URL(url).port)
            host = "" if "Host: " in lines else "Host: 127.0.0.1\r\n"
            writer.write(f"POST / HTTP/1.1\r\n{host}{lines}\r\n".encode() + body)
            status = int((await asyncio.wait_for(reader.readline(), 5)).split()[1])
            writer.close()
            await asyncio.sleep(0.05)  # what lingers reads on
            return status

        yield ask


ODD = {
    "Content-Encoding: gzip\r\nContent-Length: 5\r\n": (200, b"abcde"),  # as it came: who reads it refuses it
    "Transfer-Encoding: chunked\r\n": (400, b"zz\r\n\r\n"),
    "Host: xn--a\r\nContent-Length: 0\r\n": (403, b""),
    "Origin: http://xn--a\r\nContent-Length: 0\r\n": (403, b""),
    "Expect: x\r\nContent-Length: 0\r\n": (417, b""),
    "Expect: 100-continue\r\nContent-Length: 0\r\n": (100, b""),
}
"""Header lines, what they are answered where anybody may ask, and the body."""


@pytest.mark.parametrize("lines", ODD, ids=lambda lines: lines.split("\r")[0])
async def test_odd_headers_are_refused_and_never_logged_as_faults(lines: str, caplog: pytest.LogCaptureFixture) -> None:
    status, body = ODD[lines]
    async with guarded() as ask:
        assert await ask(lines, body) == status
    async with guarded(KEY) as ask:
        assert await ask(lines, body) == (status if status in (100, 400) else 401)
        assert await ask(f"Authorization: Bearer {KEY}\r\n{lines}", body) == status
    assert not [each for each in caplog.records if each.levelname == "ERROR"], caplog.text
