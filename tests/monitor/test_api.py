"""The HTTP face: what each route answers, keys, fuzz, and readers of the event stream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import swarm
from swarm.monitor import board as boards
from swarm.monitor import survey
from swarm.monitor.history import Sample
from swarm.types import View
from tests.monitor.serving import Face, face, face_beside
from tests.monitor.swarms import household, peer_id, server, view
from tests.web.odd import odd_headers

ROOT = Path(swarm.__file__).parent
KEY = "monitor-secret-key"
ROUTES = (
    "/",
    "/static/main.js",
    "/api/v1/state",
    "/api/v1/models",
    f"/api/v1/peers/{peer_id('attic')}",
    "/api/v1/history?model=m",
    "/api/v1/events",
    "/metrics",
    "/nowhere",
)


@pytest.fixture
async def shown(tmp_path: Path) -> AsyncIterator[Face]:
    async with face(tmp_path) as running:
        running.board.put_up(survey(household(), now=time.time()))
        yield running


async def get(url: str, path: str, **headers: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(url + path, headers=headers) as response:
        text = await response.text()
        return response.status, json.loads(text) if response.content_type == "application/json" else text


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def test_state_models_and_peers_tell_what_is_there(shown: Face) -> None:
    status, state = await get(shown.url, "/api/v1/state")
    assert status == 200 and state["totals"]["servers"] == 13 and len(state["servers"]) == 13
    status, models = await get(shown.url, "/api/v1/models")
    assert status == 200 and models["models"] == state["models"] and "servers" not in models
    status, peer = await get(shown.url, f"/api/v1/peers/{peer_id('attic')}")
    assert status == 200 and sorted(each["model"] for each in peer["servers"]) == ["llama-3.1-70b", "smollm2-135m"]
    assert peer["servers"][0]["expires_at"] > time.time() and peer["engine"] is None
    status, error = await get(shown.url, "/api/v1/peers/nobody")
    assert status == 404 and "no server with this peer id" in error["error"]["message"]


async def test_history_comes_in_columns_and_bad_questions_are_explained(shown: Face) -> None:
    await shown.history.note([Sample("a model/with: signs", 3, 30, 28, 12.5)], now=time.time())
    status, found = await get(shown.url, f"/api/v1/history?model={quote('a model/with: signs')}&seconds=600&points=10")
    assert status == 200 and found["rows"] == [[found["rows"][0][0], 3, 30, 28, 12.5, 12.5]]
    assert found["columns"][3] == "covered"
    for query, words in {
        "": "model",
        "?model=m&seconds=0": "seconds",
        "?model=m&seconds=nan": "seconds: not a number",
        "?model=m&points=1e9": "points",
        "?model=m&second=5": "unknown parameter 'second'",
    }.items():
        status, error = await get(shown.url, "/api/v1/history" + query)
        assert status == 400 and words in error["error"]["message"]


async def test_metrics_are_what_prometheus_reads(shown: Face) -> None:
    _, text = await get(shown.url, "/metrics")
    samples = {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["swarm_model_blocks_covered", frozenset({"smollm2-135m"})] == 26
    assert samples["swarm_model_servers", frozenset({"llama-3.1-70b", "serving"})] == 6
    assert samples["swarm_model_alerts", frozenset({"smollm2-135m", "bad"})] == 1
    assert samples["swarm_model_alerts", frozenset({"llama-3.1-70b", "bad"})] == 0
    assert samples["swarm_monitor_healthy", frozenset()] == 1


async def test_health_tells_whether_the_swarm_was_seen_lately(tmp_path: Path) -> None:
    async with face(tmp_path, KEY) as running:
        assert (await get(running.url, "/healthz"))[0] == 503
        running.board.put_up(survey(household(), now=time.time()))
        assert await get(running.url, "/healthz") == (200, {"status": "ok"})


async def test_without_the_key_every_route_but_health_is_401(tmp_path: Path) -> None:
    async with face(tmp_path, KEY) as running:
        running.board.put_up(survey(household(), now=time.time()))
        for path in ROUTES:
            status, body = await get(running.url, path)
            assert status == 401 and KEY not in str(body), path
        assert (await get(running.url, "/api/v1/state", Authorization=f"Bearer {KEY}"))[0] == 200
        status, text = await get(running.url, "/metrics", Authorization=f"Bearer {KEY}")
        assert status == 200 and KEY not in text


async def test_events_begin_with_everything_and_go_on_with_what_changed(shown: Face) -> None:
    views = household()  # announced this second, and not that of the fixture's
    shown.board.put_up(survey(views, now=time.time()))
    async with aiohttp.ClientSession() as session, session.get(shown.url + "/api/v1/events") as response:
        assert response.content_type == "text/event-stream"
        events = read_events(response)
        name, state = await anext(events)
        assert name == "state" and len(state["servers"]) == 13
        newcomer = server("newcomer", 20, 24, model="smollm2-135m", num_blocks=30)
        views[1] = view([*views[1].records[1:], newcomer])
        shown.board.put_up(survey(views, now=time.time()))
        name, change = await anext(events)
        assert name == "change" and [each["name"] for each in change["servers"]] == ["newcomer"]
        assert [model["name"] for model in change["models"]] == ["smollm2-135m"]
        assert change["gone"] == [["smollm2-135m", peer_id("attic")]]
        shown.board.put_up(survey(views, now=time.time()))
        _, nothing = await anext(events)
        assert nothing["models"] == nothing["servers"] == nothing["gone"] == []


async def test_a_reader_that_does_not_keep_up_is_let_go(shown: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.monitor.api.SLOW", 0.5)
    host, _, port = shown.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    async with asyncio.timeout(20):
        while shown.board.num_readers == 0:
            await asyncio.sleep(0.01)
        number = 0
        while shown.board.num_readers:  # it reads nothing, while each look changes much
            number += 1
            records = [server(f"{number} {index}", 0, 80) for index in range(300)]
            shown.board.put_up(survey([view(records)], now=time.time()))
            await asyncio.sleep(0.02)
    writer.close()
    assert number > boards.MAX_BEHIND / 2


async def test_so_many_readers_and_no_more(shown: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.monitor.board.MAX_READERS", 2)
    async with aiohttp.ClientSession() as session:
        first = await session.get(shown.url + "/api/v1/events")
        second = await session.get(shown.url + "/api/v1/events")
        async with session.get(shown.url + "/api/v1/events") as third:
            assert third.status == 429 and third.headers["Retry-After"] == "5"
        first.close()
        second.close()
        async with asyncio.timeout(10):
            while shown.board.num_readers:
                shown.board.put_up(survey(household(), now=time.time()))
                await asyncio.sleep(0.02)


PATHS = st.one_of(
    st.sampled_from(ROUTES[:-3]),
    st.text(max_size=40).map(lambda text: "/api/v1/peers/" + quote(text)),
    st.text(max_size=40).map(lambda text: "/" + quote(text)),
    st.binary(max_size=30).map(
        lambda raw: "/" + raw.decode("latin-1").replace(" ", "").replace("\r", "").replace("\n", "")
    ),
)
QUERIES = st.dictionaries(
    st.sampled_from(("model", "seconds", "points", "x")),
    st.one_of(st.text(max_size=300), st.floats().map(str), st.integers().map(str)),
    max_size=4,
)


@settings(
    max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(st.sampled_from(("GET", "POST", "HEAD", "PUT", "OPTIONS")), PATHS, QUERIES, st.text(max_size=30), odd_headers())
@example("POST", "/api/v1/state", {}, "", {"Content-Encoding": "gzip"})
@example("GET", "/", {}, "", {"Host": "xn--a"})
def test_no_request_is_answered_with_a_fault_of_ours_or_logged(
    beside: Face, caplog: pytest.LogCaptureFixture, method: str, path: str, query: dict[str, str], value: str, odd: Any
) -> None:
    asked = "&".join(f"{quote(name)}={quote(text)}" for name, text in query.items())
    raw = f"{method} {path}{'?' + asked if asked else ''} HTTP/1.1\r\nConnection: close\r\nContent-Length: 5\r\n"
    raw += "".join(f"{name}: {text}\r\n" for name, text in {"Host": "127.0.0.1", **odd}.items())
    raw += f"X-Any: {quote(value)}\r\nIf-None-Match: {quote(value)}\r\n\r\nabcde"

    async def ask() -> bytes:
        host, _, port = beside.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw.encode("latin-1"))
        line = await asyncio.wait_for(reader.readline(), 10)
        await asyncio.wait_for(reader.read(), 10)  # until it has closed, what is logged is logged
        writer.close()
        return line

    line = asyncio.run(ask())
    assert line == b"" or 100 <= int(line.split()[1]) < 500, (raw, line)
    assert not [each for each in caplog.records if each.levelname == "ERROR"], (raw, caplog.text)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with face_beside(tmp_path_factory.mktemp("beside")) as running:
        running.put_up(household())
        yield running


def test_all_pages_have_one_palette() -> None:
    ours, gateways = (ROOT / room / "static" / "palette.css" for room in ("monitor", "gateway"))
    if not gateways.exists():
        pytest.skip("this tree has no gateway")
    assert ours.read_bytes() == gateways.read_bytes()


def test_views_of_every_kind_become_json() -> None:
    empty = View(model="m", records=(), taken_at=0.0)
    board = boards.Board()
    board.put_up(survey([empty, *household()], now=time.time()))
    assert json.loads(board.whole())["totals"]["models"] == 2
