from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import uvloop
from hivemind.p2p import P2P

from swarm.errors import AddressInUse, AddressInvalid, DaemonDied, PeerUnreachable
from swarm.network import Identity, NetworkConfig, Peer, Timeouts, parse_addr
from swarm.types import PeerId
from tests.network.ends import Inbox, echo_process, pair, result

CLIENT = NetworkConfig(is_listening=False)


def stranger() -> str:
    identity = Identity.load(None)
    identity.close()
    return identity.peer_id


@pytest.fixture
def leftovers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """What lies where this process makes its temporary files, which is apart from those of all others."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setattr(P2P, "_UNIX_SOCKET_PREFIX", f"/unix{folder}/hivemind-")
        yield lambda: os.listdir(folder)


@pytest.mark.slow
async def test_a_peer_leaves_nothing_behind(leftovers: Callable[[], list[str]]) -> None:
    async with pair() as both:
        await both.connect()
        assert len(leftovers()) >= 2  # so this is the place
        daemons = [child for child in psutil.Process().children() if child.name() == "p2pd"]
        assert len(daemons) == 2
    assert not any(daemon.is_running() for daemon in daemons)
    assert leftovers() == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.slow
async def test_a_peer_that_is_cancelled_or_fails_leaves_nothing_behind(leftovers: Callable[[], list[str]]) -> None:
    for wait in (0.0, 0.05, 0.15, 1.0):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(wait), Peer.open(CLIENT):
                await asyncio.sleep(60)
    with pytest.raises(KeyError, match="mine"):
        async with Peer.open(CLIENT):
            raise KeyError("mine")
    assert leftovers() == []
    assert not [child for child in psutil.Process().children() if child.name() == "p2pd"]
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.slow
def test_a_peer_lives_in_a_loop_of_another_thread_too() -> None:
    found: list[tuple[str, ...]] = []

    async def main() -> None:
        async with Peer.open(NetworkConfig()) as peer:
            found.append(tuple(str(addr) for addr in peer.addrs))

    for run in (asyncio.run, uvloop.run):
        thread = threading.Thread(target=lambda run=run: run(main()))  # type: ignore[misc]
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
    assert len(found) == 2 and all(addrs for addrs in found)


@pytest.mark.slow
async def test_addresses_are_whole_and_announced_ones_replace_them() -> None:
    async with Peer.open(NetworkConfig(host_maddrs=("/ip4/0.0.0.0/tcp/0",))) as peer:
        assert any(str(addr).startswith("/ip4/127.0.0.1/tcp/") for addr in peer.addrs)
        assert all(str(addr).endswith(f"/p2p/{peer.peer_id}") and "0.0.0.0" not in str(addr) for addr in peer.addrs)
    announced = NetworkConfig(announce_maddrs=("/ip4/203.0.113.7/tcp/4000",))
    async with Peer.open(announced) as peer:
        assert [str(addr) for addr in peer.addrs] == [f"/ip4/203.0.113.7/tcp/4000/p2p/{peer.peer_id}"]
    async with Peer.open(CLIENT) as peer:
        assert peer.addrs == ()


@pytest.mark.slow
@pytest.mark.parametrize("backlog", [1, None])
async def test_a_port_in_use_is_named(backlog: int | None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if backlog:
            taken.listen(backlog)
        addr = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        with pytest.raises(AddressInUse, match=addr):
            async with Peer.open(NetworkConfig(host_maddrs=(addr,))):
                pass


@pytest.mark.slow
async def test_the_port_of_another_peer_is_in_use_though_its_daemon_would_share_it() -> None:
    async with Peer.open(NetworkConfig()) as peer:
        addr = str(peer.addrs[0]).partition("/p2p/")[0]
        with pytest.raises(AddressInUse, match=addr):
            async with Peer.open(NetworkConfig(host_maddrs=(addr,))):
                pass


@pytest.mark.slow
@pytest.mark.parametrize("addr", ["nonsense", "/ip4/203.0.113.9/tcp/5000", "/ip4/127.0.0.1/tcp/70000"])
async def test_a_host_address_that_cannot_be_used_is_named(addr: str) -> None:
    with pytest.raises(AddressInvalid, match=addr):
        async with Peer.open(NetworkConfig(host_maddrs=(addr,))):
            pass


async def test_dialling_says_why_it_failed() -> None:
    async with Peer.open(CLIENT) as peer, Peer.open(NetworkConfig()) as other:
        port = str(other.addrs[0]).split("/")[4]
        cases = {
            f"/ip4/127.0.0.1/tcp/1/p2p/{other.peer_id}": "connection refused",
            f"/ip4/127.0.0.1/tcp/{port}/p2p/{stranger()}": "wrong peer id",
            f"/dns4/nosuch.invalid/tcp/1/p2p/{other.peer_id}": "unknown host name",
        }
        for text, why in cases.items():
            with pytest.raises(PeerUnreachable, match=why) as caught:
                await peer.dial(parse_addr(text))
            assert text in str(caught.value) and "\n" not in str(caught.value)
        assert await peer.dial(other.addrs[0]) == other.peer_id


@pytest.mark.slow
async def test_an_address_where_nobody_says_anything_costs_the_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with Peer.open(CLIENT) as peer:
            text = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}/p2p/{stranger()}"
            began = time.monotonic()
            with pytest.raises(PeerUnreachable, match=r"timed out after 0\.5 s"):
                await peer.dial(parse_addr(text), timeout=0.5)
            assert time.monotonic() - began < 1.0


@pytest.mark.slow
async def test_a_peer_that_comes_back_is_dialled_at_once(tmp_path: Path) -> None:
    async with Peer.open(NetworkConfig(identity_path=tmp_path / "key")) as first:
        addr = first.addrs[0]
    host = str(addr).partition("/p2p/")[0]
    async with Peer.open(CLIENT) as peer:
        for _ in range(4):  # libp2p alone would now refuse to try for many seconds
            with pytest.raises(PeerUnreachable, match="refused"):
                await peer.dial(addr)
        async with Peer.open(NetworkConfig(identity_path=tmp_path / "key", host_maddrs=(host,))):
            assert await peer.dial(addr)


@pytest.mark.slow
async def test_a_peer_without_address_or_without_channels_is_unreachable() -> None:
    async with Peer.open(CLIENT) as peer, Peer.open(NetworkConfig()) as mute:
        with pytest.raises(PeerUnreachable, match="no address is known"):
            await peer.channel(PeerId(stranger()))
        with pytest.raises(PeerUnreachable, match="does not speak our protocol"):
            await peer.channel(mute.peer_id, [str(mute.addrs[0])])
        for rubbish in ("no peer id", "ü"):
            with pytest.raises(PeerUnreachable, match="no peer id"):
                await peer.channel(PeerId(rubbish), ["rubbish"])
        with pytest.raises(PeerUnreachable, match="this very peer"):
            await mute.channel(mute.peer_id)


@pytest.mark.slow
async def test_addresses_of_others_and_garbage_in_a_record_are_not_dialled() -> None:
    async with pair() as both:
        addrs = ["", "/ip4/127.0.0.1/tcp/1", f"/ip4/127.0.0.1/tcp/1/p2p/{stranger()}", *map(str, both.listener.addrs)]
        assert (await both.dialler.channel(both.listener.peer_id, addrs)).is_open


@pytest.mark.slow
async def test_a_peer_that_never_says_hello_is_given_up() -> None:
    async with pair(Timeouts(hello=0.3)) as both:
        await both.dialler.dial(both.listener.addrs[0])
        both.listener._on_inbound = lambda stream, prelude: None  # type: ignore[method-assign]
        began = time.monotonic()
        with pytest.raises(PeerUnreachable, match="Hello"):
            await both.connect()
        assert time.monotonic() - began < 1.5


@pytest.mark.slow
async def test_one_peer_cannot_take_all_channels() -> None:
    config = NetworkConfig(max_channels_per_peer=2)
    async with Peer.open(config) as listener, Peer.open(CLIENT) as dialler:
        await listener.serve(lambda channel: Inbox())
        addrs = [str(addr) for addr in listener.addrs]
        for _ in range(2):
            await dialler.channel(listener.peer_id, addrs)
            dialler._dialler._dialled.clear()  # as a peer would that does not play fair
        with pytest.raises(PeerUnreachable):
            await dialler.channel(listener.peer_id, addrs)


async def test_a_dead_daemon_ends_the_block_with_an_error_of_its_own() -> None:
    with pytest.raises(DaemonDied, match="start the process again"):  # noqa: PT012
        async with asyncio.timeout(10), Peer.open(NetworkConfig()) as peer:
            peer._daemon.process.kill()
            await asyncio.sleep(60)


@pytest.mark.slow
async def test_whoever_waits_for_the_daemon_to_fail_is_told() -> None:
    with pytest.raises(DaemonDied):  # noqa: PT012
        async with asyncio.timeout(10), Peer.open(NetworkConfig()) as peer:
            waiting = asyncio.create_task(peer.wait_failed())
            peer._daemon.process.kill()
            await waiting


@pytest.mark.slow
@pytest.mark.parametrize("carrier", ["libp2p", "direct"])
async def test_a_killed_process_is_noticed_within_a_second(carrier: str) -> None:
    async with Peer.open(CLIENT) as peer, echo_process(peer, carrier) as (child, _, channel, inbox):
        channel.send(result(1), b"x")
        assert await inbox.next() == (result(1), bytearray(b"x"))
        began = time.monotonic()
        child.kill()
        await inbox.end(5)
        assert time.monotonic() - began < 1.0 and not channel.is_open


@pytest.mark.slow
@pytest.mark.parametrize("carrier", ["libp2p", "direct"])
async def test_a_frozen_process_behind_a_living_daemon_is_noticed_by_its_silence(carrier: str) -> None:
    config = NetworkConfig(is_listening=False, timeouts=Timeouts(heartbeat_interval=0.2, heartbeat_timeout=1.0))
    async with Peer.open(config) as peer, echo_process(peer, carrier) as (child, addr, channel, inbox):
        channel.send(result(1))
        await inbox.next()
        child.send_signal(signal.SIGSTOP)
        reason = await inbox.end(5)
        assert "silent" in str(reason) and not channel.is_open
        with pytest.raises(PeerUnreachable, match="silent" if carrier == "libp2p" else "no Hello within|handshake"):
            await asyncio.wait_for(peer.channel(channel.remote, [addr]), 10)
