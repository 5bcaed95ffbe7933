"""Listening, keys, foreign origins, pages and metrics, asked by a real HTTP client."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter
from yarl import URL

from swarm.errors import AddressInUse, AddressInvalid, UsageError
from swarm.web import Keys, add_metrics, add_page, guard, protocol, require_keys, serving

SECRET = "sk-a-long-secret"


@asynccontextmanager
async def asked(keys: Keys) -> AsyncIterator[aiohttp.ClientSession]:
    app = web.Application(middlewares=[guard(keys)])

    async def hello(_: web.Request) -> web.Response:
        return web.json_response("hello")

    app.router.add_get("/", hello)
    app.router.add_get("/healthz", hello)
    async with serving(app, host="127.0.0.1", port=0) as url, aiohttp.ClientSession(url) as session:
        yield session


async def status(session: aiohttp.ClientSession, path: str = "/", **headers: str) -> int:
    async with session.get(path, headers=headers) as response:
        return response.status


async def test_with_keys_every_path_but_healthz_wants_one() -> None:
    async with asked(Keys(["another-key", SECRET])) as session:
        assert await status(session) == await status(session, "/nowhere") == 401
        assert await status(session, Authorization=f"Bearer {SECRET}x") == 401
        assert await status(session, Authorization="Basic !!!") == 401
        assert await status(session, "/healthz") == 200
        assert await status(session, Authorization=f"Bearer {SECRET}") == 200
        assert await status(session, "/nowhere", Authorization=f"Bearer {SECRET}") == 404
        basic = base64.b64encode(f"anybody:{SECRET}".encode()).decode()
        assert await status(session, Authorization=f"Basic {basic}") == 200


async def test_pages_of_other_origins_and_names_of_other_machines_are_refused() -> None:
    async with asked(Keys()) as session:
        own = str(session._base_url).rstrip("/")
        assert await status(session) == await status(session, Origin=own) == 200
        assert await status(session, Origin="https://example.org") == await status(session, Origin="null") == 403
        assert await status(session, Host="example.org") == 403
        assert await status(session, Host="[") == 403
        async with session.get("/", headers={"Origin": "null"}) as response:
            assert (await response.json())["error"]["code"] == "foreign_origin"


async def test_behind_a_proxy_that_speaks_tls_the_page_is_ours_and_others_are_not() -> None:
    async with asked(Keys([SECRET])) as session:

        async def ask(host: str, origin: str) -> int:
            return await status(session, Host=host, Origin=origin, Authorization=f"Bearer {SECRET}")

        for host, origin in (
            ("chat.example.org", "https://chat.example.org"),
            ("chat.example.org:443", "https://chat.example.org"),
            ("chat.example.org:8443", "https://chat.example.org:8443"),
            ("chat.example.org", "http://chat.example.org"),
        ):
            assert await ask(host, origin) == 200, (host, origin)
        for host, origin in (
            ("chat.example.org", "https://example.org"),
            ("chat.example.org", "https://chat.example.org:8443"),
            ("chat.example.org:443", "http://chat.example.org"),
            ("127.0.0.1:8000", "https://chat.example.org"),  # a proxy that does not pass the name on
            ("chat.example.org", "ftp://chat.example.org"),
            ("chat.example.org", "null"),
            ("", "null"),
            ("", "https://"),
        ):
            assert await ask(host, origin) == 403, (host, origin)


@given(st.text(max_size=80))
def test_no_header_that_is_not_the_key_is_taken_for_it(text: str) -> None:
    assert Keys([SECRET]).find(text) is None
    assert Keys([SECRET]).find(f"Bearer {text}") is None


async def test_silent_connections_give_way_and_requests_under_way_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 4)
    release = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response(text="done")

    async def soon(_: web.Request) -> web.Response:
        return web.Response(text="soon")

    app = web.Application()
    app.router.add_get("/slow", slow)
    app.router.add_get("/", soon)
    async with serving(app, host="127.0.0.1", port=0) as url:
        at = URL(url)
        silent = [await asyncio.open_connection(at.host, at.port) for _ in range(4)]
        async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as session:

            async def get(path: str) -> str:
                async with session.get(path) as response:
                    return await response.text()

            slow_ones = [asyncio.create_task(get("/slow")) for _ in range(3)]
            closed = [await asyncio.wait_for(reader.read(), 5) for reader, _ in silent[:3]]
            assert closed == [b""] * 3, "the oldest go first"
            assert await get("/") == "soon"
            assert await asyncio.wait_for(silent[3][0].read(), 5) == b""
            slow_ones.append(asyncio.create_task(get("/slow")))  # over the idle connection of the one before
            await asyncio.sleep(0.1)
            with pytest.raises(aiohttp.ClientConnectionError):  # all four are busy
                await get("/")
            release.set()
            assert await asyncio.gather(*slow_ones) == ["done"] * 4
            assert await get("/") == "soon"
        for _, writer in silent:
            writer.close()


async def test_a_hundred_newcomers_at_once_displace_no_more_than_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 40)
    async with serving(web.Application(), host="127.0.0.1", port=0) as url:
        at = URL(url)
        ends = await asyncio.gather(
            *(asyncio.open_connection(at.host, at.port) for _ in range(100))
        )  # systems queue 128
        reads = [asyncio.create_task(reader.read()) for reader, _ in ends]
        for _ in range(100):
            _, open_ones = await asyncio.wait(reads, timeout=0.1)
            if len(open_ones) <= 40:
                break
        assert len(open_ones) == 40
        assert len((await asyncio.wait(reads, timeout=0.3))[1]) == 40
        for _, writer in ends:
            writer.close()
        await asyncio.gather(*reads, return_exceptions=True)


def test_a_key_is_told_by_its_number_and_never_shown() -> None:
    keys = Keys(["first-key-", SECRET])
    assert keys.find(f"bearer  {SECRET} ") == "key-2"
    assert SECRET not in repr(keys) + repr(vars(keys))


def test_keys_that_cannot_work_and_open_doors_are_refused() -> None:
    for key in ("short", "x" * 257, "with a blank", "schlüssel-schlüssel"):
        with pytest.raises(UsageError) as refused:
            Keys([key])
        assert key not in str(refused.value)
    for host in ("0.0.0.0", "::", "192.168.1.10", "example.org"):
        with pytest.raises(UsageError, match="--api-key"):
            require_keys(host, Keys())
        require_keys(host, Keys([SECRET]))
    for host in ("127.0.0.1", "::1", "localhost"):
        require_keys(host, Keys())


async def test_a_port_or_address_that_cannot_be_had_is_told() -> None:
    async with serving(web.Application(), host="127.0.0.1", port=0) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(AddressInUse, match=str(port)):
            async with serving(web.Application(), host="127.0.0.1", port=port):
                pass
    with pytest.raises(AddressInvalid, match=r"203\.0\.113\.1"):
        async with serving(web.Application(), host="203.0.113.1", port=0):
            pass


async def test_a_page_is_sent_with_a_policy_that_forbids_all_that_is_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    static = tmp_path / "shown" / "static"
    static.mkdir(parents=True)
    (static.parent / "__init__.py").touch()
    (static / "index.html").write_text("<p>ä</p>", encoding="utf-8")
    (static / "app.js").write_text("1", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    app = web.Application(middlewares=[guard(Keys())])
    add_page(app, "shown")
    async with serving(app, host="127.0.0.1", port=0) as url, aiohttp.ClientSession(url) as session:
        async with session.get("/") as page:
            assert await page.text() == "<p>ä</p>" and page.content_type == "text/html"
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
            assert page.headers["X-Frame-Options"] == "DENY"
        assert await status(session, "/", **{"If-None-Match": page.headers["ETag"]}) == 304
        assert await status(session, "/static/app.js") == 200
        assert await status(session, "/static/../__init__.py") == 404
    sys.modules.pop("shown", None)


async def test_metrics_are_what_prometheus_reads() -> None:
    registry, app = CollectorRegistry(), web.Application()
    Counter("swarm_things", "Things.", registry=registry).inc(3)
    add_metrics(app, registry)
    async with (
        serving(app, host="127.0.0.1", port=0) as url,
        aiohttp.ClientSession(url) as session,
        session.get("/metrics") as response,
    ):
        assert "swarm_things_total 3.0" in await response.text()


async def test_what_is_no_http_is_neither_logged_nor_repeated(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with asked(Keys([SECRET])) as session:
        assert session._base_url is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", session._base_url.port)
        writer.write(f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {SECRET}\x01\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert b" 400 " in answer.splitlines()[0] and b"no HTTP" in answer
    assert SECRET.encode() not in answer and SECRET not in caplog.text


async def test_the_handler_of_whoever_hangs_up_is_cancelled() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    app = web.Application()

    async def wait(_: web.Request) -> web.Response:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return web.Response()

    app.router.add_get("/", wait)
    async with serving(app, host="127.0.0.1", port=0) as url, aiohttp.ClientSession(url) as session:
        request = asyncio.create_task(session.get("/"))
        await begun.wait()
        request.cancel()
        await asyncio.wait_for(ended.wait(), 5)
