"""What takes minutes, or hosts of its own: twenty healthy runs, everything that hangs, and others who are elsewhere."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from swarm.demo.processes import Process
from tests import namespaces
from tests.builders import make_llama
from tests.doctor.conftest import SERVE, Ward, codes_told, doctor
from tests.namespaces import Host, can_make_namespaces, hosts

pytestmark = pytest.mark.long

PORT = 4001


@pytest.mark.parametrize("number", range(20))
def test_a_healthy_swarm_gives_no_false_alarm(ward: Ward, number: int) -> None:
    flags = (["--port", "0"], [], ["--memory", "4GB"], ["--identity-path", str(ward.folder / "no.key")])[number % 4]
    assert doctor(ward.model("tiny"), "--initial-peers", ward.addr, *flags)[:2] == (0, [])


def test_our_own_wrong_clock_is_told(ward: Ward) -> None:
    ours = ("tests.doctor.shifted", "-40", "swarm.doctor")
    status, found, text = doctor(ward.model("tiny"), "--initial-peers", ward.addr, module=ours)
    assert (status, found) == (1, ["SW12"]) and "this machine's clock is 40 s behind" in text


@contextmanager
def frozen(process: psutil.Process) -> Iterator[None]:
    everyone = [process, *process.children()]
    for each in everyone:
        each.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for each in everyone:
            each.send_signal(signal.SIGCONT)


def test_whatever_hangs_the_end_comes_in_time(ward: Ward) -> None:
    with socket.socket() as silent, frozen(psutil.Process(ward.processes["newer"].popen.pid)):
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        where = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}"
        nobody = [f"{where}{end}/p2p/{ward.peers['tiny']}" for end in ("", "/tls")]
        unknown = f"/dns4/no-such-host.invalid/tcp/1/p2p/{ward.peers['tiny-rest']}"
        status, found, text = doctor("newer", "--initial-peers", ward.addr, *nobody, unknown, "--port", "0")
        assert status == 1 and sorted(found) == ["SW01", "SW03", "SW03", "SW03"], text
        with frozen(psutil.Process(ward.processes["bootstrap"].popen.pid)):
            status, found, text = doctor("--initial-peers", ward.addr, *nobody)
            # Members met in the runs before are a way in, so that the frozen server may be seen as well.
            assert status == 1 and sorted(found)[-3:] == ["SW03"] * 3 and set(found) <= {"SW01", "SW03"}, text


def test_a_server_that_hangs_behind_a_living_daemon_is_told_from_a_closed_port(ward: Ward) -> None:
    process = ward.processes["edited"].popen
    process.send_signal(signal.SIGSTOP)
    try:
        status, found, text = doctor("edited", "--initial-peers", ward.addr)
    finally:
        process.send_signal(signal.SIGCONT)
    assert (status, found) == (1, ["SW14"]), text
    assert "takes connections" in text and ward.peers["edited"] in text


@contextmanager
def started(host: Host, *args: str, log: Path) -> Iterator[Process]:
    process = host.start(*args, log=log)
    try:
        yield process
    finally:
        process.stop()


def examined(host: Host, log: Path, *argv: str) -> list[str]:
    with started(host, "swarm.doctor", *argv, "--json", log=log) as process:
        process.popen.wait(60)
        return codes_told(process.lines[-1])


@pytest.mark.skipif(not can_make_namespaces(), reason="network namespaces need root and iproute2")
def test_on_hosts_of_a_lan_addresses_and_reachability_are_seen_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespaces, "NETWORK", "10.45.0")
    make_llama(tmp_path / "tiny", seed=1, num_blocks=6)
    make_llama(tmp_path / "wrong", seed=1, num_blocks=6)
    listen = ("--host-maddrs", f"/ip4/0.0.0.0/tcp/{PORT}")
    with ExitStack() as stack:
        at = stack.enter_context(hosts(("boot", "good", "wrong", "hidden"), hidden=("hidden",)))

        def start(name: str, *args: str) -> Process:
            return stack.enter_context(started(at[name], *args, *listen, log=tmp_path / f"{name}.log"))

        addr = start("boot", "swarm.bootstrap").wait_ready()["addr"]
        flags = ("--initial-peers", addr, "--blocks", "0:6", *SERVE[2:])
        good = start("good", "swarm.server", str(tmp_path / "tiny"), *flags)
        loopback = ("--announce-maddrs", f"/ip4/127.0.0.1/tcp/{PORT}")
        start("wrong", "swarm.server", str(tmp_path / "wrong"), *flags, *loopback)
        good.wait_ready()
        log = tmp_path / "doctor.log"
        join = ("--initial-peers", addr)
        tiny, wrong = str(tmp_path / "tiny"), str(tmp_path / "wrong")
        for host in ("boot", "good", "wrong", "hidden"):
            assert examined(at[host], log, tiny, *join) == [], log.read_text()
            assert examined(at[host], log, wrong, *join) == ["SW06"], log.read_text()
        assert examined(at["boot"], log, tiny, *join, "--port", "4003") == []
        assert examined(at["hidden"], log, tiny, *join, "--port", "4003") == ["SW07"]
        assert examined(at["good"], log, tiny, *join, "--port", str(PORT)) == []  # the server itself has it
