"""Gateways to ask: one over hops in memory, and a real process over a real swarm of three servers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI

from swarm.client import AutoModelForCausalLM, SwarmForCausalLM
from swarm.client.bridge import bridge
from swarm.demo.processes import LocalSwarm, Process, local_swarm

KEYS = ("canary-key-of-ada-7d1f", "canary-key-of-bob-90aa")
"""They must not be found in anything that the process writes."""

MODEL = "smollm2-135m"


@dataclass(frozen=True)
class Live:
    """A gateway's process and the swarm behind it."""

    url: str
    swarm: LocalSwarm
    process: Process
    log: Path

    def written(self) -> str:
        """Return all that the process has written so far."""
        return self.log.read_text(encoding="utf-8") + "\n".join(self.process.lines)

    def client(self, key: str = KEYS[0]) -> OpenAI:
        """Return a stock client, which does not try again by itself."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="package", autouse=True)
def client_leaves_at_the_end() -> Iterator[None]:
    yield
    bridge().shut_down()


@pytest.fixture(scope="package")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Three servers, uneven, and a gateway that knows two keys, one of them from a file."""
    logs = tmp_path_factory.mktemp("gateway")
    (logs / "keys").write_text(f"# Bob\n{KEYS[1]}\n")
    with local_swarm(("0:7", "7:19", "19:30"), server_flags=["--threads", "1"], logs=logs) as swarm:
        words = ["swarm.gateway", "--initial-peers", swarm.addr, "--port", "0", "--debug", "--api-key", KEYS[0]]
        words += ["--api-keys-file", str(logs / "keys"), "--requests-per-minute", "0", "--max-body", "256KiB"]
        process = Process.start(*words, log=logs / "gateway.log")
        try:
            yield Live(process.wait_ready()["url"], swarm, process, logs / "gateway.log")
        finally:
            assert process.stop() == 0
            written = (logs / "gateway.log").read_text() + "\n".join(process.lines)
            assert not [key for key in KEYS if key in written], "a key was written"
            assert "Traceback" not in written, written


@pytest.fixture(scope="package")
def client(live: Live) -> OpenAI:
    """The stock client with the first key."""
    return live.client()


@pytest.fixture(scope="package")
def model(live: Live) -> SwarmForCausalLM:
    """The same model over the same servers, by the library."""
    return AutoModelForCausalLM.from_pretrained(MODEL, initial_peers=[live.swarm.addr])
