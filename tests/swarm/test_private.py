"""A private swarm as two people on two machines make it, beside a third and a fourth who are not in it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from swarm import AutoModelForCausalLM
from swarm.client.bridge import bridge
from swarm.client.config import Timeouts
from swarm.demo.processes import Process
from swarm.errors import UnavailableError, WrongSwarmKey
from swarm.membership import JoinLine
from swarm.swarm_key import SwarmKey
from tests import zygote
from tests.builders import some_ids

pytestmark = pytest.mark.slow

LOOPBACK = ("--host-maddrs", "/ip4/127.0.0.1/tcp/0")


@dataclass
class Machine:
    """A user's settings and cache, apart from those of all others on this machine."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {"SWARM_CONFIG": str(self.folder / "config"), "SWARM_PEERS": str(self.folder / "peers")}

    def swarm(self, *words: str, stdin: str = "") -> str:
        code = f"import sys; from swarm.cli.main import main; sys.exit(main({list(words)!r}))"
        command = [sys.executable, "-c", code]
        done = zygote.run(command, stdin, env={**os.environ, **self.env}, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *words: str) -> Process:
        return Process.start(*words, env=self.env, log=self.folder / f"{words[0]}.log")


@dataclass
class Private:
    """A private swarm of two machines, its bootstrap on one, its server on the other."""

    line: JoinLine
    first: Machine
    second: Machine
    bootstrap: Process
    server: Process

    @property
    def addr(self) -> str:
        return self.line.peers[0]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Private]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    first, second = (Machine(tmp_path_factory.mktemp(name)) for name in ("first", "second"))
    with ExitStack() as stack:
        text = first.swarm("init", "--host", "127.0.0.1", "--port", port)
        bootstrap = first.start("swarm.bootstrap", "--host-maddrs", f"/ip4/127.0.0.1/tcp/{port}")
        stack.callback(bootstrap.stop)
        line = JoinLine.decode(text)
        assert bootstrap.wait_ready()["addr"] == line.peers[0]
        second.swarm("join", "-", stdin=text)
        server = second.start("swarm.server", str(tiny_folder), "--threads", "1", "--dtype", "float32", *LOOPBACK)
        stack.callback(server.stop)
        server.wait_ready()
        yield Private(line, first, second, bootstrap, server)


def at(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in machine.env.items():
        monkeypatch.setenv(name, value)


def test_who_has_joined_generates_without_any_address_or_key(
    private: Private, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(private.second, monkeypatch)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    assert model.generate(some_ids(6)[None], max_new_tokens=5, do_sample=False).shape == (1, 11)


@pytest.mark.parametrize("key", [None, SwarmKey(b"o" * 32)], ids=["no key", "another key"])
def test_no_client_of_another_swarm_gets_in(private: Private, tiny_folder: Path, key: SwarmKey | None) -> None:
    with pytest.raises(WrongSwarmKey) as told:
        AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[private.addr], swarm_key=key)
    assert private.addr in str(told.value) and "\n" not in str(told.value)


def test_no_server_of_another_swarm_gets_in_and_it_says_why(
    private: Private, tiny_folder: Path, tmp_path: Path
) -> None:
    SwarmKey.generate().write(tmp_path / "other.key")
    stranger = Machine(tmp_path)
    flags = (str(tiny_folder), "--threads", "1", "--initial-peers", private.addr, *LOOPBACK)
    for more, words in (((), "shows no key"), (("--swarm-key", str(tmp_path / "other.key")), "different keys")):
        server = stranger.start("swarm.server", *flags, *more)
        with pytest.raises(UnavailableError, match=f"ended with status 1: .*{words}"):
            server.wait_ready()


def test_with_the_bootstrap_dead_the_swarm_works_on_and_lets_in_who_was_there(
    private: Private, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(private.second, monkeypatch)
    here = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    ids = some_ids(6)[None]
    before = here.generate(ids, max_new_tokens=5, do_sample=False)
    assert private.bootstrap.stop() == 0
    assert torch.equal(here.generate(ids, max_new_tokens=5, do_sample=False), before)
    # A later run of the same user, with the same dead address: other options make another connection.
    later = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32, timeouts=Timeouts(join=9.0))
    assert torch.equal(later.generate(ids, max_new_tokens=5, do_sample=False), before)


def test_no_log_and_no_cache_holds_the_key_or_the_line(private: Private) -> None:
    bridge()  # the clients of the tests above have written their cache by now
    key = private.line.key
    assert key is not None
    secrets = [key.to_bytes(), key.to_bytes().hex().encode(), private.line.encode()[12:40].encode()]
    files = [path for machine in (private.first, private.second) for path in machine.folder.rglob("*")]
    read = {path: path.read_bytes() for path in files if path.is_file()}
    holding = {path.name for path, content in read.items() if any(secret in content for secret in secrets)}
    assert holding == {"joined.json"} and any("peers" in str(path.parent) for path in read)
