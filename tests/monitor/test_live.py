"""Monitor and status over real servers that come, are killed, and come back; the page in a real browser."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from swarm.demo.fleet import Fleet, fleet
from swarm.demo.processes import Process
from tests import zygote
from tests.builders import make_llama
from tests.monitor.browsing import browsing, needs_browser, visiting
from tests.pictures import picture_path

pytestmark = pytest.mark.slow

TTL = 4.0
"""Seconds that the servers' records live; as short as is refreshed in time on a busy machine."""

ROWS = "#table tbody tr"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as running:
        yield running


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One server with blocks 0 to 3 of six."""
    model = tmp_path_factory.mktemp("checkpoint") / "tiny"
    make_llama(model, num_blocks=6)
    with fleet("--threads", "1", "--ttl", str(TTL), "--throughput", "500") as running:
        running.model = str(model)  # type: ignore[attr-defined]
        running.start({"first": "0:4"}, "--public-name", "first", model=str(model))
        yield running


@contextmanager
def monitoring(swarm: Fleet, history: Path, *flags: str) -> Iterator[tuple[Process, str]]:
    words = ["swarm.monitor", "--initial-peers", swarm.addr, "--port", "0", "--history", str(history), *flags]
    process = Process.start(*words, log=history.with_suffix(".log"))
    try:
        yield process, process.wait_ready()["url"]
    finally:
        process.stop()


def status(swarm: Fleet, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swarm.status", "--initial-peers", swarm.addr, *flags]
    return zygote.run(command, timeout=60)


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


@needs_browser
def test_servers_come_and_go_on_the_page_as_they_do_in_the_swarm(
    swarm: Fleet, browser: Browser, tmp_path: Path
) -> None:
    history = tmp_path / "history.sqlite"
    with (
        monitoring(swarm, history) as (process, url),
        visiting(browser, url, width=1300, height=740, color_scheme="dark") as visit,
    ):
        visit.wait(lambda: visit.count(ROWS) == 1)
        visit.page.evaluate("document.body.dataset.mine = 'not loaded again'")
        assert "blocks 4-5 have no server" in visit.page.locator(".alerts").all_text_contents()[0]
        assert visit.page.locator(".bands .gap").get_attribute("data-start") == "4"

        model = swarm.model  # type: ignore[attr-defined]
        swarm.launch({"second": "4:6"}, "--public-name", "second", model=model)
        swarm.wait_ready("second")
        row = f'{ROWS}:has-text("second")'
        joined = visit.wait(lambda: visit.count(row) == 1 and visit.text(f"{row} .standing") == "serving", 10)
        visit.wait(lambda: visit.text(".badge") == "whole")
        assert visit.page.locator(".bands .gap").count() == 0
        assert joined < 5.0

        visit.page.click(f"{row} .name a")
        visit.wait(lambda: "Engine, as it says now" in visit.text("#panel"))
        assert "0 running, 0 waiting" in visit.text("#panel")
        visit.page.screenshot(path=picture_path("monitor-server", tmp_path))
        visit.page.keyboard.press("Escape")

        swarm.signal("second", signal.SIGKILL)
        began = time.monotonic()
        visit.wait(lambda: visit.page.locator(".bands .gap").count() == 1, 4 * TTL)
        assert visit.page.locator(".bands .gap").get_attribute("data-start") == "4"
        visit.wait(lambda: "blocks 4-5 have no server" in visit.text(".alerts"))
        gone = time.monotonic() - began
        assert gone < 2 * TTL, "the gap, and the alert too"
        assert visit.count(row) == 0
        assert visit.page.evaluate("document.body.dataset.mine") == "not loaded again"
        print(f"seen {joined:.1f} s after it was ready, missed {gone:.1f} s after it was killed, ttl {TTL:g} s")
        assert process.stop() == 0
        visit.wait(lambda: visit.page.get_attribute("#live", "data-state") == "lost")
        visit.complaints.clear()  # the browser itself says that nobody listens any more

    with monitoring(swarm, history) as (process, url):
        found = get(f"{url}/api/v1/history?model=tiny&seconds=600&points=60")
        assert {row[3] for row in found["rows"]} <= {4, 6} and found["rows"][0][3] == 4
        assert found["rows"][0][0] < time.time() - 10  # noted by the one before
        peer = get(f"{url}/api/v1/state")["servers"][0]["peer"]
        told = get(f"{url}/api/v1/peers/{peer}")
        assert told["engine"]["pages"] > 0 and told["problem"] == "" and told["servers"][0]["name"] == "first"


def test_status_tells_in_one_look_what_is_whole(swarm: Fleet) -> None:
    broken = status(swarm)
    assert broken.returncode == 1
    assert "INCOMPLETE, 4 of 6 blocks" in broken.stdout and "blocks 4-5 have no server" in broken.stdout
    assert "0 [1111..] 5" in broken.stdout
    model = swarm.model  # type: ignore[attr-defined]
    swarm.start({"third": "2:6"}, "--public-name", "third", model=model)
    whole = status(swarm, "--json")
    found = json.loads(whole.stdout)
    assert whole.returncode == 0, whole.stderr
    assert found["models"][0]["is_whole"] and sorted(each["name"] for each in found["servers"]) == ["first", "third"]
    assert found["models"][0]["bottleneck"] == [[0, 2], [4, 6]]
