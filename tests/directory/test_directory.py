from __future__ import annotations

import asyncio
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hivemind.dht.routing import DHTID
from multiaddr import Multiaddr

from swarm.directory import Timeouts
from swarm.directory import directory as directory_module
from swarm.directory.signed import model_key
from swarm.errors import SwarmUnreachable
from swarm.network import Identity, peer_id_of
from swarm.types import ModelEntry, ServerState, Span
from tests.directory.members import MODEL, Member, member, record_of, until_all_see
from tests.network.ends import process


def nobody(port: int = 1) -> Multiaddr:
    identity = Identity.load(None)
    identity.close()
    return Multiaddr(f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity.peer_id}")


async def test_records_are_seen_by_all_and_goodbyes_too() -> None:
    async with (
        member() as first,
        member(*first.peer.addrs) as second,
        member(*first.peer.addrs, is_client=True) as client,
    ):
        everybody = [first, second, client]
        assert all(each.directory.is_connected for each in (second, client))
        assert await first.announce(span=Span(0, 2))
        assert await second.announce(span=Span(2, 4), public_name="second")
        for each in everybody:
            view = await each.directory.view(MODEL)
            assert {record.span for record in view.records} == {Span(0, 2), Span(2, 4)}
            assert all(view.taken_at < record.expires_at < view.taken_at + 61 for record in view.records)
            assert await each.sees("another model") == set()
        assert await client.directory.models() == (
            ModelEntry(name=MODEL, fingerprint="ab" * 8, num_blocks=4, num_servers=2),
        )
        await second.directory.withdraw(second.record)
        for each in everybody:
            assert await each.sees() == {first.peer.peer_id}
        assert await second.announce()
        for each in everybody:
            assert await each.sees() == {first.peer.peer_id, second.peer.peer_id}


@pytest.mark.slow
async def test_the_latest_record_replaces_the_one_before() -> None:
    async with member() as first, member(*first.peer.addrs) as second:
        for load in range(5):
            assert await second.announce(load=load)
            assert [record.load for record in (await first.directory.view(MODEL)).records] == [load]
        assert await second.announce(ttl=30, state=ServerState.DRAINING)
        assert [record.state for record in (await first.directory.view(MODEL)).records] == [ServerState.DRAINING]


@pytest.mark.slow
async def test_a_record_expires_when_nobody_refreshes_it() -> None:
    async with member() as first, member(*first.peer.addrs) as second:
        assert await second.announce(ttl=1.0)
        assert await first.sees() == {second.peer.peer_id}
        await asyncio.sleep(1.1)
        assert await first.sees() == await second.sees() == set()


@pytest.mark.slow
async def test_a_server_that_comes_back_at_once_replaces_its_own_goodbye(tmp_path: Path) -> None:
    async with member() as first:
        async with member(*first.peer.addrs, key=tmp_path / "key") as server:
            assert await server.announce(ttl=300)
            await server.directory.withdraw(server.record)
        assert await first.sees() == set()
        async with member(*first.peer.addrs, key=tmp_path / "key") as server:
            assert await server.announce(ttl=60)
            assert await first.sees() == {server.peer.peer_id}


@pytest.mark.slow
async def test_only_our_own_record_can_be_announced_and_only_for_a_while() -> None:
    async with member() as first:
        with pytest.raises(ValueError, match="only our own"):
            await first.directory.announce(record_of(peer_id_of(nobody())), ttl=60)
        for ttl in (0, -1, 301):
            with pytest.raises(ValueError, match="ttl"):
                await first.directory.announce(first.record, ttl=ttl)


@pytest.mark.slow
async def test_two_models_are_listed_with_their_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "MAX_REGISTRY_ENTRIES", 1)
    async with member() as first, member(*first.peer.addrs) as second, member(*first.peer.addrs) as third:
        await first.announce()
        await second.announce()  # not entered: the model is listed once already
        await third.announce(model="other", fingerprint="cd")
        entries = await second.directory._node.get("swarm/1/models")
        assert set(entries) == {first.peer.peer_id, third.peer.peer_id}
        assert [(each.name, each.num_servers) for each in await second.directory.models()] == [(MODEL, 2), ("other", 1)]


@pytest.mark.slow
async def test_one_name_with_two_checkpoints_is_two_models() -> None:
    async with member() as first, member(*first.peer.addrs) as second:
        await first.announce(fingerprint="11")
        await second.announce(fingerprint="22")
        assert {each.fingerprint for each in await first.directory.models()} == {"11", "22"}


@pytest.mark.slow
async def test_a_client_that_knows_nobody_stores_nothing() -> None:
    async with member(is_client=True) as client:
        assert not await client.announce()
        assert await client.sees() == set() and await client.directory.models() == ()


@pytest.mark.slow
async def test_dead_initial_peers_cost_a_bounded_time_and_are_named() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        dead = [nobody(), nobody(silent.getsockname()[1])]
        timeouts = Timeouts(join=1.0)
        began = time.monotonic()
        async with member(*dead, timeouts=timeouts) as lonely:
            assert time.monotonic() - began < 1.0 + 1.0
            assert not lonely.directory.is_connected
            with pytest.raises(SwarmUnreachable, match="refused") as caught:
                await lonely.directory.wait_connected(0.1)
            assert all(str(addr) in str(caught.value) for addr in dead) and "\n" not in str(caught.value)
        async with member() as first:
            began = time.monotonic()
            async with member(*dead, *first.peer.addrs, timeouts=timeouts) as joined:
                assert joined.directory.is_connected and time.monotonic() - began < 1.5


@pytest.mark.slow
async def test_whoever_starts_before_its_bootstrap_joins_when_that_appears(tmp_path: Path) -> None:
    async with member(key=tmp_path / "key") as before:
        addr = before.peer.addrs[0]
    async with member(addr) as early:
        assert not early.directory.is_connected
        assert await early.announce()
        joined = asyncio.Event()
        early.directory.on_joined(joined.set)
        async with member(key=tmp_path / "key", host=str(addr).partition("/p2p/")[0]) as bootstrap:
            await early.directory.wait_connected(10)
            assert joined.is_set() and bootstrap.peer.peer_id == before.peer.peer_id
            await early.announce()
            assert await bootstrap.sees() == {early.peer.peer_id}


@pytest.mark.slow
async def test_members_see_each_other_after_their_bootstrap_is_gone() -> None:
    async with AsyncExitStack() as stack:
        async with member() as bootstrap:
            addrs = bootstrap.peer.addrs
            first = await stack.enter_async_context(member(*addrs))
            second = await stack.enter_async_context(member(*addrs))
            await first.announce()
            await second.announce()
        expected = {first.peer.peer_id, second.peer.peer_id}
        await until_all_see([first, second], expected, timeout=10)
        assert await first.announce(load=5)
        records = (await second.directory.view(MODEL)).records
        assert {record.load for record in records} == {0, 5}


@pytest.mark.slow
async def test_eight_that_start_at_once_are_one_swarm() -> None:
    async with AsyncExitStack() as stack, member() as bootstrap:
        members: list[Member] = list(
            await asyncio.gather(*(stack.enter_async_context(member(*bootstrap.peer.addrs)) for _ in range(8)))
        )
        assert all(await asyncio.gather(*(each.announce() for each in members)))
        expected = {each.peer.peer_id for each in members}
        await until_all_see([*members, bootstrap], expected, timeout=10)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [600, -600])
async def test_a_server_whose_clock_is_ten_minutes_off_is_seen_and_sees(seconds: int) -> None:
    async with member() as first:
        await first.announce()
        async with process("tests.directory.skewed_server", str(seconds), str(first.peer.addrs[0])) as (_, line):
            theirs, is_stored, *seen = line.split()
            assert is_stored == "True" and set(seen) == {theirs, first.peer.peer_id}
            view = await first.directory.view(MODEL)
            assert {record.peer for record in view.records} == {theirs, first.peer.peer_id}
            assert all(0 < record.expires_at - view.taken_at < 65 for record in view.records)


@pytest.mark.slow
async def test_a_peer_that_comes_back_again_and_again_keeps_its_place(tmp_path: Path) -> None:
    async with member() as bootstrap, member(*bootstrap.peer.addrs) as other:
        for _ in range(4):
            async with member(*bootstrap.peer.addrs, key=tmp_path / "key") as again:
                assert await again.announce()
                await until_all_see([bootstrap, other], {again.peer.peer_id}, timeout=5)
        for each in (bootstrap, other):
            peers = each.directory._node.neighbours
            assert len(set(peers)) == len(peers) <= 2


@pytest.mark.slow
async def test_a_record_is_stored_if_one_node_takes_it_whatever_the_last_one_says() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(member())
        others = [await stack.enter_async_context(member(*server.peer.addrs)) for _ in range(3)]
        await server.announce()
        key, subkey = DHTID.generate(source=model_key(MODEL)), server.peer.peer_id
        for refusing in others:
            storage = refusing.directory._node._node.protocol.storage
            entry = storage.get(key).value.get(subkey)
            storage.store_subkey(key, subkey, entry.value, time.time() + 300)  # newer than all that will come
        server.directory._node.hide(True)  # does not count itself
        assert not await server.announce()
        accepting = await stack.enter_async_context(member(*others[0].peer.addrs))
        await until_all_see([accepting], {server.peer.peer_id}, timeout=5)
        assert all([await server.announce() for _ in range(12)])
