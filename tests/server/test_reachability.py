from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from swarm.directory import Directory
from swarm.errors import HopRefused
from swarm.network import Closed, NetworkConfig, Peer
from swarm.server.reachability import LOOK_TIMEOUT, Reachability
from swarm.types import Reach
from tests.directory.members import Member, member


@pytest.fixture(autouse=True)
def asked_as_often_as_we_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.network.dial_back.PAUSE", 0.0)


@asynccontextmanager
async def newcomer(
    num_members: int, config: NetworkConfig | None = None, *, answering: bool = True
) -> AsyncIterator[tuple[Reachability, list[Member]]]:
    """A peer that joins so many members."""
    async with AsyncExitStack() as stack:
        members: list[Member] = []
        for _ in range(num_members):
            addrs = [each.peer.addrs[0] for each in members]
            members.append(await stack.enter_async_context(member(*addrs)))
            if answering:
                await members[-1].peer.serve(lambda channel: Closed(HopRefused("nothing is served here")))
        peer = await stack.enter_async_context(Peer.open(config or NetworkConfig(use_relays=False)))
        await peer.serve(lambda channel: Closed(HopRefused("nothing is served here")))
        addrs = [each.peer.addrs[0] for each in members]
        directory = await stack.enter_async_context(Directory.open(peer, initial_peers=addrs, is_hidden=True))
        yield await stack.enter_async_context(Reachability.open(peer, directory)), members


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def forwarding(port: int, there: int) -> AsyncIterator[None]:
    """What a router does: let one port lead to another."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", there)
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(pass_on, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while chunk := await source.read(4096):
        sink.write(chunk)
    sink.close()


async def test_a_newcomer_that_two_members_reach_says_so_at_once() -> None:
    async with newcomer(2) as (reachability, members):
        began = time.monotonic()
        await reachability.wait_routable()
        assert time.monotonic() - began < 0.5
        assert reachability.reach is Reach.DIRECT
        assert len(reachability.addrs) == 2 and set(reachability._finding.reached) == set(reachability.addrs)
        ours = reachability._peer.peer_id
        async with asyncio.timeout(5):
            while not all(ours in each.directory.members for each in members):
                await asyncio.sleep(0.05)


async def test_nobody_there_to_ask_is_no_reason_not_to_serve() -> None:
    async with newcomer(0) as (reachability, _):
        await asyncio.wait_for(reachability.wait_routable(), 1)
        assert reachability.reach is Reach.UNKNOWN


async def test_members_that_do_not_answer_hold_nobody_up_for_long() -> None:
    async with newcomer(2, answering=False) as (reachability, _):
        await asyncio.wait_for(reachability.wait_routable(), LOOK_TIMEOUT + 1)
        assert reachability.reach is Reach.UNKNOWN


async def test_who_cannot_be_dialled_stays_out_until_he_can(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("swarm.server.reachability.FIRST_PAUSE", 0.2)
    port, real, changes = free_port(), free_port(), asyncio.Event()
    config = NetworkConfig(
        host_maddrs=(f"/ip4/127.0.0.1/tcp/{real}",),
        announce_maddrs=(f"/ip4/127.0.0.1/tcp/{port}",),
        use_direct=False,
        use_relays=False,
    )
    async with newcomer(2, config) as (reachability, members):
        await reachability.wait_looked()
        ours = reachability._peer.peer_id
        assert reachability.reach is Reach.UNREACHABLE
        assert "NOT REACHABLE" in caplog.text and "Remedy" in caplog.text and "connection refused" in caplog.text
        watching = asyncio.create_task(reachability.watch(changes.set, lambda: members[0].directory.view("tiny")))
        routable = asyncio.create_task(reachability.wait_routable())
        await asyncio.sleep(0.5)
        assert not routable.done() and not changes.is_set()
        assert not any(ours in each.directory.members for each in members)
        async with forwarding(port, real):
            await asyncio.wait_for(changes.wait(), 10)
            await asyncio.wait_for(routable, 1)
        assert reachability.reach is Reach.DIRECT and reachability._finding.reached == reachability.addrs
        watching.cancel()


async def test_one_failed_look_does_not_turn_clients_away() -> None:
    async with newcomer(2) as (reachability, _):
        await reachability.wait_looked()
        gone = f"/ip4/127.0.0.1/tcp/1/p2p/{reachability._peer.peer_id}"
        addr = type(reachability._peer.addrs[0])(gone)
        reachability._peer.addrs, reachability._peer.direct_addrs = (addr,), ()
        await reachability.look()
        assert reachability.reach is Reach.DIRECT
        await reachability.look()
        assert reachability.reach is Reach.UNREACHABLE
