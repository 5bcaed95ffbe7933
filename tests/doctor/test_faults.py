"""Each fault made for real, with processes and sockets: the doctor finds that one and no other, and in time."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from swarm.blocks import open_checkpoint
from swarm.directory import Directory
from swarm.doctor import Level
from swarm.errors import Busy
from swarm.network import Closed, Identity, NetworkConfig, Peer, parse_addr
from swarm.swarm_key import SwarmKey
from swarm.types import Span
from tests.builders import make_llama
from tests.directory.members import member
from tests.doctor.conftest import Examine, Ward, codes, doctor, faults

pytestmark = pytest.mark.slow


def stranger() -> str:
    """The id of a peer that does not exist."""
    identity = Identity.load(None)
    identity.close()
    return identity.peer_id


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_healthy_swarm_has_no_fault_and_no_warning(ward: Ward) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "swarm.doctor", ward.model("tiny"), "--initial-peers", ward.addr, "--port", "0"],
        capture_output=True,
        text=True,
    )
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0 and ended.stderr == "" and lines[-1] == "healthy"
    assert [line.split()[0] for line in lines[:-1]] == ["ok"] * 8
    assert "tiny: 2 servers, all 6 blocks served, as the 6 that were compared with the files here" in ended.stdout


async def test_a_server_whose_port_is_closed_is_named_and_what_is_lost_with_it(ward: Ward, diagnose: Examine) -> None:
    ward.kill("closing")
    found = await diagnose(ward.model("closing"), "--initial-peers", ward.addr)
    assert codes(found) == ["SW01"]
    (fault,) = faults(found)
    assert ward.peers["closing"] in fault.text and "connection refused" in fault.text and "0:6" in fault.text
    assert "nobody else serves blocks 0:6" in fault.text and "its record lives" in fault.remedy


async def test_another_peer_at_an_initial_peers_address_is_told_from_a_dead_one(ward: Ward, diagnose: Examine) -> None:
    where, _, real = ward.addr.rpartition("/p2p/")
    found = await diagnose("--initial-peers", f"{where}/p2p/{stranger()}")
    assert codes(found) == ["SW02"]
    assert real in faults(found)[0].text and f"/p2p/{real}" in faults(found)[0].remedy


async def test_another_peer_at_a_servers_address_is_no_closed_port(ward: Ward, diagnose: Examine) -> None:
    where, _, real = ward.addr.rpartition("/p2p/")
    async with member(parse_addr(ward.addr)) as server:
        await server.peer.serve(lambda channel: Closed(Busy("not now")))
        await server.announce(model="moved", num_blocks=2, addrs=(f"{where}/p2p/{server.peer.peer_id}",))
        found = await diagnose("moved", "--initial-peers", ward.addr)
    assert codes(found) == ["SW02"] and real in faults(found)[0].text


async def test_of_several_bootstrap_peers_the_dead_one_is_named(ward: Ward, diagnose: Examine) -> None:
    async with member() as bootstrap:
        dead = str(bootstrap.peer.addrs[0])
        assert codes(await diagnose(ward.model("tiny"), "--initial-peers", ward.addr, dead)) == []
    found = await diagnose(ward.model("tiny"), "--initial-peers", ward.addr, dead)
    assert codes(found) == ["SW03"]
    assert dead in faults(found)[0].text and ward.addr not in faults(found)[0].text
    alone = await diagnose("--initial-peers", dead)
    assert codes(alone) == ["SW03"] and alone[-1].level is Level.WARNING


async def test_a_wrong_swarm_key_is_told_from_a_dead_bootstrap(ward: Ward, diagnose: Examine, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    SwarmKey.generate().write(ours)
    SwarmKey.generate().write(theirs)
    network = NetworkConfig(swarm_key=SwarmKey.read(theirs))
    async with Peer.open(network) as peer, Directory.open(peer):
        await peer.serve(lambda channel: Closed(Busy("not now")))
        private = str(peer.addrs[0])
        for key in ([], ["--swarm-key", str(ours)]):
            found = await diagnose("--initial-peers", private, *key)
            assert codes(found) == ["SW04"]
            assert private in faults(found)[0].text and "--swarm-key" in faults(found)[0].remedy
        assert codes(await diagnose("--initial-peers", private, "--swarm-key", str(theirs))) == []
        both = await diagnose(ward.model("tiny"), "--initial-peers", ward.addr, private)
        assert codes(both) == ["SW04"] and ward.addr not in faults(both)[0].text
    assert codes(await diagnose("--initial-peers", ward.addr, "--swarm-key", str(ours))) == ["SW04"]


async def test_a_server_of_another_protocol_version_is_told_with_both_versions(ward: Ward, diagnose: Examine) -> None:
    found = await diagnose(ward.model("newer"), "--initial-peers", ward.addr)
    assert codes(found) == ["SW05"]
    assert ward.peers["newer"] in faults(found)[0].text and "99..99" in faults(found)[0].text


async def test_a_containers_address_in_a_record_is_found_by_those_elsewhere(ward: Ward, diagnose: Examine) -> None:
    async with member(parse_addr(ward.addr)) as server:
        inside = f"/ip4/172.29.255.17/tcp/4001/p2p/{server.peer.peer_id}"
        await server.announce(model="inside", num_blocks=2, addrs=(inside,))
        found = await diagnose("inside", "--initial-peers", ward.addr)
    assert codes(found) == ["SW06"]
    assert "172.29.255.17" in faults(found)[0].text and "--announce-maddrs" in faults(found)[0].remedy


async def test_a_machine_that_nobody_can_dial_back_is_told_which_ports_to_open(ward: Ward, diagnose: Examine) -> None:
    ports = closed_port(), closed_port()
    announced = (f"/ip4/127.0.0.1/tcp/{ports[0]}", f"/ip4/127.0.0.1/tcp/{ports[1]}/tls")
    argv = ("--initial-peers", ward.addr, "--port", "0", "--announce-maddrs", *announced)
    found = await diagnose(ward.model("tiny"), *argv)
    assert codes(found) == ["SW07"]
    assert all(str(port) in faults(found)[0].remedy for port in ports) and "connection refused" in faults(found)[0].text
    half = await diagnose(ward.model("tiny"), *argv[:-1])
    assert codes(half) == ["SW07"] and "libp2p" in faults(half)[0].text


async def test_a_server_with_an_edited_checkpoint_is_named_with_its_blocks(ward: Ward, diagnose: Examine) -> None:
    edited = ward.peers["edited"]
    found = await diagnose(ward.model("edited"), "--initial-peers", ward.addr)
    assert codes(found) == ["SW09"] and edited in faults(found)[0].text
    assert "other weights in blocks 3:4" in faults(found)[0].text
    checkpoint = open_checkpoint(ward.model("edited"))
    async with member(parse_addr(ward.addr)) as right:
        await right.peer.serve(lambda channel: Closed(Busy("not now")))
        digests = tuple(map(checkpoint.block_digest, range(2, 6)))
        changes = {"model": "edited", "fingerprint": checkpoint.fingerprint, "num_blocks": 6, "digests": digests}
        await right.announce(span=Span(2, 6), addrs=tuple(map(str, right.peer.addrs)), **changes)
        found = await diagnose("edited", "--initial-peers", ward.addr)
    # Without files here nobody can tell which of the two is right, but that they differ.
    assert codes(found) == ["SW09"]


async def test_files_here_that_are_another_checkpoint_are_told(ward: Ward, diagnose: Examine, tmp_path: Path) -> None:
    make_llama(tmp_path / "tiny", seed=2, num_blocks=6)
    found = await diagnose(str(tmp_path / "tiny"), "--initial-peers", ward.addr)
    assert codes(found) == ["SW09"] and "the files here" in faults(found)[0].text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder of its own disk of one MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


async def test_a_full_disk_is_told_with_what_is_needed(
    ward: Ward, diagnose: Examine, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_CACHE", str(small_disk))
    found = await diagnose(ward.model("tiny"), "--initial-peers", ward.addr)
    assert codes(found) == ["SW10"]
    assert str(small_disk) in faults(found)[0].text and "SWARM_CACHE" in faults(found)[0].remedy
    with suppress(OSError):
        (small_disk / "weights").write_bytes(bytes(2 << 20))
    assert "No space left" in faults(await diagnose(ward.model("tiny"), "--initial-peers", ward.addr))[0].text


async def test_too_little_memory_is_told_with_need_and_have(ward: Ward, diagnose: Examine) -> None:
    found = await diagnose(ward.model("tiny"), "--initial-peers", ward.addr, "--memory", "64MB")
    assert codes(found) == ["SW11"]
    assert "61 MiB are allowed" in faults(found)[0].text


def test_a_wrong_clock_is_told_by_how_much_and_whose_it_is(ward: Ward) -> None:
    late = dict(line.split("=", 1) for line in ward.processes["late"].lines[-1].split()[1:])
    status, found, text = doctor("--initial-peers", late["addr"])
    assert (status, found) == (1, ["SW12"]) and "60 s" in text and late["peer"] in text


async def test_a_port_that_something_else_has_is_told(ward: Ward, diagnose: Examine) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        found = await diagnose(ward.model("tiny"), "--initial-peers", ward.addr, "--port", port)
    assert codes(found) == ["SW13"]


async def test_blocks_that_nobody_serves_any_more_are_named(ward: Ward, diagnose: Examine) -> None:
    ward.processes.pop("tiny-rest").stop()
    found = await diagnose("tiny", "--initial-peers", ward.addr)
    ward.serve("tiny-rest", "4:6", model=ward.model("tiny"))
    ward.processes["tiny-rest"].wait_ready()
    assert codes(found) == ["SW08"]
    assert "blocks 4:6 are served by nobody" in faults(found)[0].text and "--blocks 4:6" in faults(found)[0].remedy
