"""Servers die under a streaming text, and then there are none: what the reader, /healthz and the metrics see."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import openai
import pytest
from openai import OpenAI

from swarm.demo.fleet import Fleet, fleet
from swarm.demo.processes import Process
from swarm.types import PeerId
from tests.gateway.conftest import MODEL

pytestmark = pytest.mark.slow

ASKED: dict[str, Any] = {"model": MODEL, "prompt": "Once upon a time,", "temperature": 0, "max_tokens": 40}
HALVES = {"first": "0:15", "second": "15:30", "other": "15:30"}


@pytest.fixture
def servers() -> Iterator[Fleet]:
    with fleet("--threads", "1", "--ttl", "5") as running:
        running.start(HALVES)
        yield running


@pytest.fixture
def url(servers: Fleet, tmp_path: Path) -> Iterator[str]:
    words = ["swarm.gateway", MODEL, "--initial-peers", servers.addr, "--port", "0"]
    process = Process.start(*words, log=tmp_path / "gateway.log")
    try:
        yield process.wait_ready()["url"]
    finally:
        assert process.stop() == 0


def test_a_text_survives_a_server_and_the_loss_of_all_is_told(servers: Fleet, url: str) -> None:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        expected = client.completions.create(**ASKED).choices[0].text
        text, route = "", dict[str, Any]()
        for count, chunk in enumerate(client.completions.create(**ASKED, stream=True)):
            text += chunk.choices[0].text
            if count == 8:
                route = get(f"{url}/api/v1/route/{chunk.id}")[1]
                servers.signal(servers.name(PeerId(route["hops"][1]["peer"])), signal.SIGKILL)
        after = get(f"{url}/api/v1/route/{chunk.id}")[1]
        assert text == expected and route["failovers"] == 0 and after["failovers"] == 1
        assert (
            after["hops"][0]["peer"] == route["hops"][0]["peer"]
            and after["hops"][1]["peer"] != route["hops"][1]["peer"]
        )
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            assert f'swarm_gateway_failovers_total{{model="{MODEL}"}} 1.0' in answer.read().decode()
        servers.signal(servers.name(PeerId(after["hops"][1]["peer"])), signal.SIGTERM)
        wait_for(url, 503, "nobody serves blocks 15:30")
        with pytest.raises(openai.InternalServerError) as refused:
            client.completions.create(**ASKED)
        assert refused.value.status_code == 503 and "15:30" in str(refused.value)
        assert int(refused.value.response.headers["Retry-After"]) > 0
        state = get(f"{url}/v1/models/{MODEL}")[1]["swarm"]
        assert state["state"] == "incomplete" and state["missing"] == [{"start": 15, "end": 30}]


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def wait_for(url: str, status: int, words: str) -> None:
    deadline = time.monotonic() + 30
    while (found := get(f"{url}/healthz"))[0] != status:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    assert words in str(found[1])
