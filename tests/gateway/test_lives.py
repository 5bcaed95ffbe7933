"""How a gateway's process begins without models, and ends when it can reach nobody any more."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from swarm.demo.fleet import fleet
from swarm.demo.processes import Process
from tests.builders import make_llama
from tests.gateway.digest_gateway import LETTERS, letters_tokenizer
from tests.gateway.test_outage import get

pytestmark = pytest.mark.slow

MODELS = ("letters", "others")


def test_it_begins_empty_grows_and_ends_with_one_line_without_its_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(MODELS):
        make_llama(tmp_path / name, vocab_size=len(LETTERS), seed=seed)
        letters_tokenizer().save_pretrained(tmp_path / name)
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
            for name in MODELS:
                swarm.launch({name: "0:3"}, model=name)
            for name in MODELS:
                wait_for(url, f"{name}: ready")
            answers = [ask(url, name) for name in MODELS]
            assert [answer["model"] for answer in answers if answer] == list(MODELS), "one process, two models"
            assert answers[0] and answers[1] and answers[0]["choices"] != answers[1]["choices"]
            for name in MODELS:
                swarm.signal(name, signal.SIGTERM)
            for name in MODELS:
                wait_for(url, f"{name}: nobody serves blocks 0:3")
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


def ask(url: str, model: str) -> dict[str, Any] | None:
    """Return five letters more; None if the model is not there, or not ready."""
    body = json.dumps({"model": model, "prompt": "ab", "max_tokens": 5, "ignore_eos": True}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    with suppress(OSError), urllib.request.urlopen(request) as answer:
        return cast(dict[str, Any], json.load(answer))
    return None
