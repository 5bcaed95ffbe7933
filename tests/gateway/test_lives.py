"""How a gateway's process begins without models, and ends when it can reach nobody any more."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from swarm.demo.fleet import fleet
from swarm.demo.processes import Process
from tests.gateway.conftest import MODEL
from tests.gateway.test_outage import get

pytestmark = pytest.mark.slow


def test_alone_it_says_so_and_without_its_daemon_it_ends_with_one_line(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    with fleet() as swarm:
        gateway = Process.start("swarm.gateway", MODEL, "--initial-peers", swarm.addr, "--port", "0", log=log)
        try:
            url = gateway.wait_ready()["url"]
            wait_for(url, "nobody serves blocks 0:30")
            swarm.bootstrap.stop(signal.SIGKILL)
            wait_for(url, "nobody of the swarm answers")
            (daemon,) = [each for each in psutil.Process(gateway.popen.pid).children() if "p2pd" in each.name()]
            daemon.kill()
            assert gateway.popen.wait(30) == 1
        finally:
            gateway.stop()
    told = [line for line in log.read_text().splitlines() if "error" in line.lower() or "Traceback" in line]
    assert told == ["error: our libp2p daemon ended with status -9; start the process again"], log.read_text()


def wait_for(url: str, words: str) -> None:
    """Wait until /healthz tells so."""
    deadline = time.monotonic() + 60
    while words not in str(found := get(f"{url}/healthz")):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
