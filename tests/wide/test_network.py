"""The wide-area network of one machine does what it says: needs root, and is skipped without."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.wide import Host, WideNetwork, why_not

pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not() is not None, reason=why_not() or "")]

DELAY, RATE = 0.02, 50.0


@pytest.fixture(scope="module")
def made() -> Iterator[WideNetwork]:
    hosts = [Host(name="one", up_mbit=RATE), Host(name="two", up_mbit=RATE), Host(name="home")]
    with WideNetwork(hosts, delay=DELAY) as network:
        yield network


@pytest.fixture
def network(made: WideNetwork) -> Iterator[WideNetwork]:
    yield made
    made.set(delay=DELAY, jitter=0.0, loss=0.0)
    for host in ("one", "two", "home"):
        made.mend(host)
        made.set_closed(host, False)


def ping(network: WideNetwork, one: str, other: str, *, timeout: float = 1.0) -> float | None:
    """Return the seconds of one ICMP echo; None without an answer."""
    with network.socket(one, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(timeout)
        body = struct.pack("!BBHHH", 8, 0, 0, 77, 1)
        total = sum(struct.unpack("!4H", body))
        started = time.perf_counter()
        sock.sendto(
            body[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + body[4:], (network.address(other), 0)
        )
        try:
            while (answer := sock.recv(2048))[20] != 0:
                pass
        except TimeoutError:
            return None
        assert answer[24:28] == body[4:8]
        return time.perf_counter() - started


def joined(network: WideNetwork, one: str, other: str) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection that `one` dialled."""
    with network.socket(other) as door:
        door.bind((network.address(other), 0))
        door.listen()
        door.settimeout(2)
        near = network.socket(one)
        near.settimeout(1)
        try:
            near.connect(door.getsockname())
            near.settimeout(60)
        except OSError:
            near.close()
            raise
        far, _ = door.accept()
    return near, far


def transfer(near: socket.socket, far: socket.socket, size: int) -> float:
    """Send so many bytes; return the seconds from their first to their last at the other end."""
    sender = threading.Thread(target=near.sendall, args=(bytes(size),))
    sender.start()
    far.settimeout(60)
    count, first = 0, 0.0
    while count < size:
        count += len(far.recv(1 << 16))
        first = first or time.perf_counter()
    sender.join()
    return time.perf_counter() - first


def test_a_ping_takes_twice_the_delay_within_a_millisecond(network: WideNetwork) -> None:
    for delay in (0.01, 0.05):
        network.set(delay=delay)
        found = [ping(network, "one", "two") for _ in range(9)]
        # The quickest: busy cores make others later, and none earlier.
        assert min(each for each in found if each is not None) == pytest.approx(2 * delay, abs=0.001)


def test_tcp_gets_the_rate_within_a_tenth(network: WideNetwork) -> None:
    near, far = joined(network, "one", "two")
    with near, far:
        transfer(near, far, 4_000_000)  # TCP finds out what the network bears
        size = 8_000_000
        seconds = transfer(near, far, size)
    # 1448 of 1500 bytes are the user's; the rate counts them all.
    assert 8 * size * 1500 / 1448 / seconds == pytest.approx(1e6 * RATE, rel=0.1)


def test_loss_is_as_set(network: WideNetwork) -> None:
    network.set(delay=0.0, loss=0.2)
    before = network.stats()
    with network.socket("one", socket.SOCK_DGRAM) as near, network.socket("two", socket.SOCK_DGRAM) as far:
        far.bind((network.address("two"), 0))
        far.settimeout(0.1)
        arrived = 0
        for _ in range(10):
            for _ in range(100):  # no more than a socket holds unread
                near.sendto(b"x", far.getsockname())
            with suppress(TimeoutError):
                while far.recv(10):
                    arrived += 1
    assert arrived == pytest.approx(800, abs=60)
    assert network.stats()["lost"] - before["lost"] == pytest.approx(1000 - arrived, abs=5)


def test_a_cut_is_silence_and_mending_brings_everything_back(network: WideNetwork) -> None:
    near, far = joined(network, "one", "two")
    with near, far:
        network.cut("one", "two")
        near.sendall(b"lost?")
        far.settimeout(0.3)
        with pytest.raises(TimeoutError):
            far.recv(10)
        assert ping(network, "one", "two", timeout=0.2) is None and ping(network, "one", "home") is not None
        network.mend("one", "two")
        far.settimeout(5)
        assert far.recv(10) == b"lost?"  # TCP tried again
    network.cut("two")
    assert ping(network, "home", "two", timeout=0.2) is None


def test_nobody_calls_a_closed_host_which_calls_whom_it_likes(network: WideNetwork) -> None:
    network.set_closed("home", True)
    with pytest.raises(TimeoutError):
        joined(network, "one", "home")
    near, far = joined(network, "home", "one")
    with near, far:
        far.sendall(b"answer")
        near.settimeout(2)
        assert near.recv(10) == b"answer"


def test_commands_run_on_their_host(network: WideNetwork) -> None:
    text = "import socket; s = socket.socket(); s.bind(('{}', 0)); print(s.getsockname()[0])"
    for host in ("one", "home"):
        address = network.address(host)
        child = network.run(host, [sys.executable, "-c", text.format(address)], stdout=subprocess.PIPE, text=True)
        assert child.communicate(timeout=20)[0].strip() == address


def test_whatever_becomes_of_the_parent_nothing_is_left() -> None:
    text = (
        "import os, sys\n"
        "from benchmarks.wide import Host, WideNetwork\n"
        "network = WideNetwork([Host(name='one')]).__enter__()\n"
        "child = network.run('one', ['sleep', '600'])\n"
        "print(child.pid, network._forwarder.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).parents[2]
    told = subprocess.run([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, cwd=root, timeout=30).stdout
    deadline = time.monotonic() + 10
    while any(_is_running(int(word)) for word in told.split()):
        assert time.monotonic() < deadline, f"still running: {told}"
        time.sleep(0.05)
    assert len(told.split()) == 2


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
