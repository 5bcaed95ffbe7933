"""Each example runs against a real swarm, as its first line says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.blocks.native import kernel_name
from swarm.blocks.native.binding import TORCH
from swarm.demo.processes import Process, local_swarm
from swarm.swarm_key import SwarmKey
from tests import zygote

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def addr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with local_swarm(["0:12", "12:30"], server_flags=["--threads", "1"], logs=tmp_path_factory.mktemp("logs")) as local:
        yield local.addr


@pytest.fixture
def private(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A private swarm: the address of its bootstrap, and its key's file."""
    key = tmp_path / "swarm.key"
    SwarmKey.generate().write(key)
    with local_swarm(["0:30"], server_flags=["--threads", "1"], logs=tmp_path, swarm_key=key) as local:
        yield local.addr, str(key)


def run(name: str, *words: str, stdin: str = "") -> str:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *words]
    done = zygote.run(command, stdin, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generate_prints_an_answer_and_where_the_time_went(addr: str) -> None:
    text = run("generate", addr)
    assert "Danube" in text or "Rhine" in text or "Volga" in text
    assert "0:12" in text and "12:30" in text and "network" in text


def test_chat_keeps_its_session_over_the_turns(addr: str) -> None:
    # A prompt that the model answers alike in every weight format: most of its first tokens are near ties.
    text = run("chat", addr, stdin="Please name the capital of France.\nAnd of Italy?\n")
    held = [int(line.split()[0][1:]) for line in text.splitlines() if line.endswith("tokens held by the servers]")]
    assert len(held) == 2 and held[0] < held[1]
    first, second = text.split("tokens held by the servers]")[:2]
    assert "Paris" in first and "Rome" in second  # "Italy" alone is no question: the servers knew the first one


def test_batch_continues_every_prompt(addr: str) -> None:
    lines = run("batch", addr).strip().splitlines()
    assert [line[:10] for line in lines] == ["The sea is", "My favouri", "Once upon "]


def test_streams_give_what_the_batch_gives(addr: str) -> None:
    streams, batch = run("streams", addr).strip().splitlines(), run("batch", addr).strip().splitlines()
    assert [line[:10] for line in streams] == ["The sea is", "My favouri", "Once upon "]
    assert streams == batch or kernel_name() == TORCH  # whose rows' last bits depend on their company


def test_hidden_states_shows_a_norm_for_each_token(addr: str) -> None:
    text = run("hidden_states", addr)
    assert "Paris" in text
    assert "after block 15: (1, 7, 576), after the last: (1, 7, 576)" in text


def test_private_swarm_answers_who_has_its_key_and_nobody_else(private: tuple[str, str]) -> None:
    text = run("private_swarm", *private)
    assert "Paris" in text.partition("without the key:")[0]
    assert "shows no key" in text.partition("without the key:")[2]


def test_monitor_api_tells_what_the_swarm_looks_like(addr: str, tmp_path: Path) -> None:
    flags = ["--port", "0", "--history", str(tmp_path / "history"), "--api-key", "example-key"]
    monitor = Process.start("swarm.monitor", "--initial-peers", addr, *flags, log=tmp_path / "log")
    try:
        url = monitor.wait_ready()["url"]
        text = run("monitor_api", url, "example-key")
        assert "smollm2-135m: whole" in text and "warn: blocks 0-29 have one server" in text
        assert "blocks 0:12 serving at 12D3KooW" in text and text.endswith("event: state\nevent: change\n")
        assert "example-key" not in "".join(monitor.lines) + (tmp_path / "log").read_text(encoding="utf-8")
    finally:
        monitor.stop()


def test_the_openai_client_streams_an_answer_of_the_gateway(addr: str) -> None:
    text = run("openai_client", addr)
    assert text.startswith("smollm2-135m: ") and "Paris" in text


def test_every_example_has_a_test() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    assert all(f'run("{path.stem}"' in tests for path in EXAMPLES.glob("*.py"))
