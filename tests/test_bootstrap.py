from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from swarm.bootstrap import BootstrapConfig
from swarm.errors import UsageError
from swarm.network import parse_addr, peer_id_of
from tests.directory.members import member
from tests.zygote import ForkedPopen

READY = re.compile(r"ready peer=(\S+) addr=(\S+)")


@contextmanager
def bootstrap(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "swarm.bootstrap", *arguments]
    with ForkedPopen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            for each in psutil.Process(child.pid).children() if child.poll() is None else []:
                each.kill()
            child.kill()


def ready(child: subprocess.Popen[str]) -> tuple[list[str], str, str]:
    """Read up to the ready line; return the lines before it, the peer id and the address."""
    assert child.stdout is not None
    before = []
    for line in child.stdout:
        if match := READY.fullmatch(line.strip()):
            return before, match[1], match[2]
        before.append(line.strip())
    raise AssertionError(f"it ended: {child.stderr and child.stderr.read()}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_ready_introduces_peers_and_ends_cleanly_on_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    key = tmp_path / "folder" / "key"
    with bootstrap("--port", "0", "--identity-path", str(key)) as child:
        before, peer, addr = ready(child)
        assert addr.endswith(f"/p2p/{peer}") and peer_id_of(parse_addr(addr)) == peer
        assert all(line.startswith("addr=/") for line in before)
        addrs = [addr, *(line.removeprefix("addr=") for line in before)]
        local = next(each for each in addrs if each.startswith("/ip4/127.0.0.1/tcp/"))
        assert addr != local or len(addrs) == 1
        async with member(parse_addr(local)) as first, member(parse_addr(local)) as second:
            assert await first.announce()
            assert await second.sees() == {first.peer.peer_id}
        began = time.monotonic()
        # To its whole group, as a terminal does: its daemon must not die of it before its time.
        child.send_signal(number)
        out, errors = child.communicate(timeout=10)
        assert child.returncode == 0 and out == "" and time.monotonic() - began < 2
        assert "Traceback" not in errors and "error" not in errors.lower()
    assert key.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
async def test_ctrl_c_in_a_terminal_reaches_its_daemon_only_through_it() -> None:
    command = [sys.executable, "-m", "swarm.bootstrap", "--host-maddrs", "/ip4/127.0.0.1/tcp/0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        before, _, addr = ready(child)
        assert before == [] and addr.startswith("/ip4/127.0.0.1/tcp/")
        os.killpg(child.pid, signal.SIGINT)
        _, errors = child.communicate(timeout=10)
        assert child.returncode == 0 and "error" not in errors.lower()


@pytest.mark.slow
def test_a_dead_other_bootstrap_does_not_keep_it_from_starting() -> None:
    dead = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL"
    with bootstrap("--host-maddrs", "/ip4/127.0.0.1/tcp/0", "--initial-peers", dead) as child:
        assert ready(child)[2].startswith("/ip4/127.0.0.1/tcp/")
        child.terminate()
        _, errors = child.communicate(timeout=10)
        assert child.returncode == 0 and f"{dead}: connection refused" in errors


@pytest.mark.slow
def test_a_second_one_on_the_same_port_or_key_says_so_in_one_line(tmp_path: Path) -> None:
    key = str(tmp_path / "key")
    with bootstrap("--host-maddrs", "/ip4/127.0.0.1/tcp/0", "--identity-path", key) as child:
        host = ready(child)[2].partition("/p2p/")[0]
        for arguments, words in (
            (["--host-maddrs", host], f"error: {host} is in use by another process"),
            (["--port", "0", "--identity-path", key], f"error: identity {key} is in use by process {child.pid}"),
        ):
            with bootstrap(*arguments) as second:
                out, errors = second.communicate(timeout=30)
            assert second.returncode == 1 and out == "" and errors.startswith(words) and errors.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("addr", ["nonsense", "/ip4/127.0.0.1/tcp/31337"])
def test_a_malformed_initial_peer_is_named_in_one_line(addr: str) -> None:
    with bootstrap("--port", "0", "--initial-peers", addr) as child:
        out, errors = child.communicate(timeout=30)
    assert child.returncode == 1 and out == "" and repr(addr) in errors and errors.count("\n") == 1


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_a_usage_error(port: int) -> None:
    with pytest.raises(UsageError, match=str(port)):
        BootstrapConfig(port=port)
