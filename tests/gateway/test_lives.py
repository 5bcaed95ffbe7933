"""How a gateway's process begins without models, and ends when it can reach nobody any more."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from swarm.demo.fleet import fleet
from swarm.demo.processes import Process
from tests.builders import make_llama
from tests.gateway.digest_gateway import LETTERS, letters_tokenizer
from tests.gateway.test_outage import get

pytestmark = pytest.mark.slow


def test_it_begins_empty_grows_says_when_it_is_alone_and_ends_without_its_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_llama(tmp_path / "letters", vocab_size=len(LETTERS))
    letters_tokenizer().save_pretrained(tmp_path / "letters")
    log = tmp_path / "gateway.log"
    with fleet("--threads", "1") as swarm:
        monkeypatch.chdir(tmp_path)  # where files of models are looked for
        gateway = Process.start("swarm.gateway", "--initial-peers", swarm.addr, "--port", "0", log=log)
        try:
            ready = gateway.wait_ready()
            url = ready["url"]
            assert ready["models"] == "" and get(f"{url}/v1/models") == (200, {"object": "list", "data": []})
            assert get(f"{url}/healthz") == (503, {"status": "unavailable", "models": []})
            assert "none yet" in str(get(f"{url}/v1/models/letters"))
            swarm.start({"whole": "0:3"}, model="letters")
            wait_for(url, "letters: ready")
            swarm.signal("whole", signal.SIGTERM)
            wait_for(url, "nobody serves blocks 0:3")
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
