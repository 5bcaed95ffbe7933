"""A server behind a router that lets nobody in: dialled back, found hidden, and served through a relay all the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from swarm.demo.processes import Process
from tests.namespaces import Host, can_make_namespaces, hosts
from tests.swarm.from_afar import IDS
from tests.swarm.reference import FP32

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_namespaces(), reason="network namespaces need root and iproute2"),
]

PORT = 4001


@contextmanager
def started(host: Host, *args: str, log: Path) -> Iterator[Process]:
    process = host.start(*args, log=log)
    try:
        yield process
    finally:
        process.stop()


def ask(host: Host, folder: Path, addr: str, log: Path, num_tokens: int = 24) -> dict[str, Any]:
    """Let a client on `host` generate; return what it saw."""
    with started(host, "tests.swarm.from_afar", str(folder), addr, str(num_tokens), log=log) as client:
        assert client.popen.wait(60) == 0, log.read_text()
        answer: dict[str, Any] = json.loads(client.lines[-1])
        return answer


def test_a_server_that_nobody_can_dial_serves_through_a_relay(tiny_folder: Path, tmp_path: Path) -> None:
    listen = ("--host-maddrs", f"/ip4/0.0.0.0/tcp/{PORT}")
    reference = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    expected = reference.generate(torch.tensor(IDS), max_new_tokens=24, do_sample=False).tolist()
    with ExitStack() as stack:
        at = stack.enter_context(hosts(("relay", "open", "hidden", "client"), hidden=("hidden",)))

        def start(name: str, *args: str) -> Process:
            return stack.enter_context(started(at[name], *args, *listen, log=tmp_path / f"{name}.log"))

        addr = start("relay", "swarm.bootstrap").wait_ready()["addr"]
        assert addr.startswith(f"/ip4/{at['relay'].address}/")
        serve = ("swarm.server", str(tiny_folder), "--initial-peers", addr, "--ttl", "6", *FP32, "--blocks")
        servers = [start("open", *serve, "0:4"), start("hidden", *serve, "4:6")]
        first, hidden = (server.wait_ready() for server in servers)
        answer = ask(at["client"], tiny_folder, addr, tmp_path / "client.log")
        console = (tmp_path / "hidden.log").read_text()
    assert answer["ids"] == expected
    assert answer["route"] == [first["peer"], hidden["peer"]]
    reach, addrs, _ = answer["records"][hidden["peer"]]
    assert reach == "relayed" and addrs and all("/p2p-circuit/p2p/" in addr for addr in addrs)
    assert answer["records"][first["peer"]][0] == "direct"
    assert "/p2p-circuit/" in hidden["addr"]
    assert re.search(r"only through relays.*let TCP port 4001 and 4002 in", console)
