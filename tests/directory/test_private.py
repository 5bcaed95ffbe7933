"""Private swarms beside others that they are connected to: what raw nodes of the DHT can read, call, and see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hivemind.dht import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID
from hivemind.proto import dht_pb2
from hivemind.utils import MSGPackSerializer

from swarm.directory import SignedRecords, Timeouts
from swarm.directory.gate import Calls, Gate
from swarm.directory.node import Node, _put_behind
from swarm.directory.signed import REGISTRY_KEY, model_key, open_value, registry_key, seal_record
from swarm.errors import SwarmUnreachable, WrongSwarmKey
from swarm.membership import PeerCache
from swarm.network import Closed, Identity, NetworkConfig, Peer
from swarm.swarm_key import SwarmKey
from swarm.types import PeerId
from tests.directory.members import MODEL, Member, member, record_of, until_all_see
from tests.network.ends import process

KEY, OTHER = SwarmKey(b"k" * 32), SwarmKey(b"o" * 32)
HIDDEN, OPEN = DHTID.generate(source=model_key(MODEL, KEY)), DHTID.generate(source=model_key(MODEL))
REFUSAL = Closed(SwarmUnreachable("serves nothing"))


@asynccontextmanager
async def bootstrap(swarm_key: SwarmKey | None) -> AsyncIterator[Member]:
    """A member as a bootstrap peer is one: it takes channels, and serves nothing."""
    async with member(swarm_key=swarm_key) as first:
        await first.peer.serve(lambda channel: REFUSAL)
        yield first


@asynccontextmanager
async def raw_node(of: Member, gate: SwarmKey | None = None, name_of: SwarmKey | None = None) -> AsyncIterator[Any]:
    """A bare hivemind node connected to a member; with a key it makes calls as that key's members do.

    `name_of`: it has learnt what the calls of that key's members are called.
    """
    async with Peer.open(NetworkConfig()) as peer:
        await peer.dial(of.peer.addrs[0])
        node = await DHTNode.create(
            p2p=peer.p2p,
            initial_peers=[str(of.peer.addrs[0])] if gate is None else None,
            ensure_bootstrap_success=False,
            strict=False,
            client_mode=gate is not None,
        )
        if gate is not None:
            own = Gate(gate, node.peer_id)
            own.namespace = Gate(name_of or gate, node.peer_id).namespace
            await _put_behind(own, node.protocol, is_client=False)
        yield node


def remote(of: Member) -> PeerID:
    return PeerID.from_base58(of.peer.peer_id)


def stored_bytes(of: Member) -> bytes:
    """Everything that a member's node keeps for others, as it would hand it out."""
    storage = of.directory._node._node.protocol.storage
    return b"".join(key.to_bytes() + MSGPackSerializer.dumps(entry.value) for key, entry in storage.items())


async def test_members_of_a_private_swarm_find_each_other() -> None:
    async with bootstrap(KEY) as first:
        addr = first.peer.addrs[0]
        async with (
            member(addr, swarm_key=KEY) as server,
            member(addr, swarm_key=KEY) as another,
            member(addr, swarm_key=KEY, is_client=True) as client,
        ):
            assert await server.announce() and await another.announce(state=server.record.state)
            both = {server.peer.peer_id, another.peer.peer_id}
            await until_all_see([first, server, another, client], both, timeout=5)
            (entry,) = await client.directory.models()
            assert entry.name == MODEL and entry.num_servers == 2
            assert set(client.directory.members) <= {first.peer.peer_id, *both}
            await server.directory.withdraw(server.record)
            await until_all_see([client], {another.peer.peer_id}, timeout=5)


@pytest.mark.parametrize(("key", "words"), [(OTHER, "different keys"), (None, "shows no key")])
async def test_whoever_joins_with_another_key_or_none_is_told_at_once(key: SwarmKey | None, words: str) -> None:
    async with bootstrap(KEY) as first, member(first.peer.addrs[0], swarm_key=key) as stranger:
        began = time.monotonic()
        with pytest.raises(WrongSwarmKey, match=rf"{first.peer.addrs[0]}: .*{words}"):
            await stranger.directory.wait_connected(20)
        assert time.monotonic() - began < 1
        assert first.directory.members == () and stranger.directory.members == ()


async def test_a_member_that_joins_the_open_swarm_is_told_that_it_is_open() -> None:
    async with bootstrap(None) as public, member(public.peer.addrs[0], swarm_key=KEY) as private:
        with pytest.raises(WrongSwarmKey, match="open to all"):
            await private.directory.wait_connected(20)
        assert public.directory.members == () and private.directory.members == ()


async def test_swarms_that_share_peers_addresses_see_nothing_of_each_other() -> None:
    """Three swarms; each member is connected to all others by libp2p, and is given all of them as initial peers."""
    async with AsyncExitStack() as stack:
        keys = (KEY, OTHER, None)
        firsts = [await stack.enter_async_context(bootstrap(key)) for key in keys]
        addrs = [first.peer.addrs[0] for first in firsts]
        seconds = [await stack.enter_async_context(member(*addrs, swarm_key=key)) for key in keys]
        for second in seconds:
            await second.peer.serve(lambda channel: REFUSAL)
            for each in (*firsts, *seconds):
                if each is not second:
                    await second.peer.dial(each.peer.addrs[0])
            await second.directory.wait_connected(5)
            assert await second.announce()
        for first, second in zip(firsts, seconds, strict=True):
            await until_all_see([first, second], {second.peer.peer_id}, timeout=5)
            assert [entry.num_servers for entry in await first.directory.models()] == [1]
            assert first.directory.members == (second.peer.peer_id,)
            assert second.directory.members == (first.peer.peer_id,)
            for stranger in (each for each in seconds if each is not second):
                with pytest.raises(WrongSwarmKey):
                    await stranger.peer.channel(second.peer.peer_id, [str(addr) for addr in second.peer.direct_addrs])


async def test_a_raw_node_without_the_key_gets_no_answer_and_is_not_noticed() -> None:
    async with bootstrap(KEY) as first:
        assert await first.announce()
        async with raw_node(first) as node:
            protocol, peer = node.protocol, remote(first)
            assert await protocol.call_ping(peer) is None
            assert await protocol.call_find(peer, [HIDDEN, OPEN, DHTID.generate(source=REGISTRY_KEY)]) is None
            assert await protocol.call_store(peer, [HIDDEN], [b"x"], [time.time() + 60], ["y"]) is None
            for key in (model_key(MODEL, KEY), model_key(MODEL), registry_key(KEY), REGISTRY_KEY):
                assert await node.get(key, latest=True) is None
            assert not protocol.routing_table.uid_to_peer_id
        assert first.directory.members == () and await first.sees() == {first.peer.peer_id}


@pytest.mark.parametrize("key", [OTHER, None], ids=["another key", "no key"])
async def test_a_raw_node_that_has_learnt_the_calls_name_gets_no_answer_either(key: SwarmKey | None) -> None:
    async with bootstrap(KEY) as first, raw_node(first, gate=key or OTHER, name_of=KEY) as node:
        assert await first.announce()
        if key is None:
            stub = super(type(node.protocol), node.protocol).get_stub(
                node.p2p, remote(first), namespace=Gate(KEY, node.peer_id).namespace
            )
            node.protocol.get_stub = lambda peer: stub
        with pytest.raises(Exception, match="WrongSwarmKey"):
            await node.protocol.get_stub(remote(first)).rpc_ping(
                dht_pb2.PingRequest(peer=node.protocol.node_info), timeout=5
            )
        assert await node.protocol.call_find(remote(first), [HIDDEN]) is None
        assert await node.protocol.call_store(remote(first), [HIDDEN], [b"x"], [time.time() + 60], ["y"]) is None
        await asyncio.sleep(0.1)
        assert first.directory.members == ()


async def test_what_is_stored_tells_neither_models_nor_servers() -> None:
    """Read by a raw node that was let in: what it gets, and what any disk or memory of a member holds, is sealed."""
    async with bootstrap(KEY) as first, member(first.peer.addrs[0], swarm_key=KEY) as server:
        assert await server.announce(public_name="the attic", model=MODEL)
        async with raw_node(first, gate=KEY) as node:
            found = await node.protocol.call_find(remote(first), [HIDDEN, OPEN, DHTID.generate(source=REGISTRY_KEY)])
            assert found[OPEN][0] is None and found[DHTID.generate(source=REGISTRY_KEY)][0] is None
            (value, _expiry) = found[HIDDEN][0].value.get(server.peer.peer_id)
        kept = value + stored_bytes(first)
        assert len(kept) > 300
        record = server.record
        for secret in (MODEL, "the attic", record.fingerprint, record.addrs[0], "tcp", "float32"):
            assert secret.encode() not in kept
        assert OPEN.to_bytes() not in kept and HIDDEN.to_bytes() in kept


@pytest.mark.parametrize("swarm_key", [KEY, OTHER, None])
async def test_a_sealed_record_is_one_in_its_own_swarm_only(swarm_key: SwarmKey | None) -> None:
    identity = Identity.load(None)
    try:
        expires_at = time.time() + 60
        record = record_of(identity.peer_id, expires_at=expires_at)
        value = seal_record(record, identity, expires_at=expires_at, swarm_key=KEY)
        found = open_value(model_key(MODEL, KEY), identity.peer_id, value, expires_at, swarm_key)
        assert found == (record if swarm_key == KEY else None)
        for moved in (model_key(MODEL, swarm_key), model_key("other", KEY), registry_key(KEY)):
            if moved != model_key(MODEL, KEY):
                assert open_value(moved, identity.peer_id, value, expires_at, KEY) is None
        assert open_value(model_key(MODEL, KEY), PeerId("12D3KooWx"), value, expires_at, KEY) is None
        plain = seal_record(record, identity, expires_at=expires_at)
        assert open_value(model_key(MODEL, KEY), identity.peer_id, plain, expires_at, KEY) is None
    finally:
        identity.close()


async def test_a_member_stores_nothing_that_is_not_sealed_and_signed() -> None:
    async with bootstrap(KEY) as first, raw_node(first, gate=KEY) as node, Peer.open(NetworkConfig()) as peer:
        expires_at = time.time() + 60
        record = record_of(peer.peer_id)
        plain = seal_record(record, peer.identity, expires_at=expires_at)
        foreign = seal_record(record, peer.identity, expires_at=expires_at, swarm_key=OTHER)
        good = seal_record(record, peer.identity, expires_at=expires_at, swarm_key=KEY)
        for value, is_stored in ((plain, False), (foreign, False), (b"x" * 200, False), (good, True)):
            packed = MSGPackSerializer.dumps(value)
            stored = await node.protocol.call_store(remote(first), [HIDDEN], [packed], [expires_at], [peer.peer_id])
            assert stored == [is_stored]
        assert await first.sees() == {peer.peer_id}


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [-900, 900])
async def test_a_member_whose_clock_is_wrong_is_told_the_time_and_let_in(seconds: int) -> None:
    async with member(swarm_key=KEY) as first:
        assert await first.announce()
        arguments = ("tests.directory.skewed_server", str(seconds), str(first.peer.addrs[0]), KEY.to_bytes().hex())
        async with process(*arguments) as (_, line):
            theirs, is_stored, *seen = line.split()
            assert is_stored == "True" and set(seen) == {theirs, first.peer.peer_id}
            assert await first.sees() == {theirs, first.peer.peer_id}


QUICK = Timeouts(join=2.0, patience=0.2, retry_first=0.2, retry_most=0.5, recheck=0.5)


@pytest.mark.parametrize("swarm_key", [None, KEY])
async def test_with_all_bootstraps_dead_members_go_on_and_newcomers_come_in(swarm_key: SwarmKey | None) -> None:
    async with AsyncExitStack() as stack:
        async with member(swarm_key=swarm_key) as first:
            addr = first.peer.addrs[0]
            one = await stack.enter_async_context(member(addr, swarm_key=swarm_key, timeouts=QUICK))
            two = await stack.enter_async_context(member(addr, swarm_key=swarm_key, timeouts=QUICK))
            everybody = {one.peer.peer_id, two.peer.peer_id}
            for each in (one, two):
                assert await each.announce(addrs=tuple(map(str, each.peer.addrs)))
            await until_all_see([one, two], everybody, timeout=5)
            async with member(addr, swarm_key=swarm_key, is_client=True) as earlier:
                assert await earlier.sees() == everybody
        # Its bootstrap is gone. Through any member: whoever is told of one.
        async with member(two.peer.addrs[0], swarm_key=swarm_key, is_client=True) as told:
            assert await told.sees() == everybody
        # And with nothing but the dead address, through those whom this user has met before.
        began = time.monotonic()
        async with member(addr, swarm_key=swarm_key, timeouts=QUICK) as later:
            await later.directory.wait_connected(5)
            assert time.monotonic() - began < 4 and await later.sees() == everybody
            assert await later.announce()
            await until_all_see([one, two, later], {*everybody, later.peer.peer_id}, timeout=5)


async def test_members_met_before_are_not_asked_while_an_initial_peer_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with member(swarm_key=KEY) as first, member(first.peer.addrs[0], swarm_key=KEY) as other:
        cache = PeerCache.of((), KEY)
        assert cache is not None
        cache.write([str(other.peer.addrs[0])])
        asked: list[PeerId] = []
        ping = Node.ping

        async def noting(node: Node, peer: PeerId) -> float | None:
            asked.append(peer)
            return await ping(node, peer)

        monkeypatch.setattr(Node, "ping", noting)
        async with member(first.peer.addrs[0], swarm_key=KEY):
            assert asked == [first.peer.peer_id]


@pytest.mark.parametrize("content", ["", "\x00\xff garbage", "swarm-peers-1\n/ip4/127.0.0.1/tcp/1/p2p/nobody\n"])
async def test_a_corrupt_cache_costs_nothing_but_a_line(content: str, caplog: pytest.LogCaptureFixture) -> None:
    key = SwarmKey.generate()
    cache = PeerCache.of((), key)
    assert cache is not None
    cache.path.parent.mkdir(parents=True, exist_ok=True)
    cache.path.write_text(content)
    async with member(swarm_key=key) as first, member(first.peer.addrs[0], swarm_key=key) as second:
        assert second.directory.is_connected and await second.announce()
        assert await first.sees() == {second.peer.peer_id}
    assert len([each for each in caplog.records if "not remembered" in each.message]) == 2  # one of each


async def test_cached_strangers_are_no_way_in() -> None:
    """A cache that names peers of another swarm: they are asked, refuse, and nobody is worse off."""
    key = SwarmKey.generate()
    cache = PeerCache.of((), key)
    assert cache is not None
    async with bootstrap(OTHER) as stranger:
        cache.write([str(stranger.peer.addrs[0])])
        async with member(swarm_key=key, timeouts=QUICK) as alone:
            await asyncio.sleep(0.5)
            assert not alone.directory.is_connected and stranger.directory.members == ()


def test_the_validator_of_one_swarm_takes_nothing_of_another() -> None:
    identity = Identity.load(None)
    expires_at = time.time() + 60
    value = seal_record(record_of(identity.peer_id), identity, expires_at=expires_at, swarm_key=KEY)
    packed = MSGPackSerializer.dumps
    from hivemind.dht.crypto import DHTRecord

    record = DHTRecord(HIDDEN.to_bytes(), packed(identity.peer_id), packed(value), expires_at)
    assert [SignedRecords(key).validate(record) for key in (KEY, OTHER, None)] == [True, False, False]
    identity.close()


async def test_the_answers_of_a_node_that_stops_are_taken_back() -> None:
    async with Peer.open(NetworkConfig(swarm_key=KEY)) as peer:
        for _ in range(2):  # the second start would fail if a handler of the first were left
            node = await Node.start(peer.p2p, Timeouts(), is_client=False, swarm_key=KEY)
            assert isinstance(node._node.protocol.get_stub(PeerID.from_base58(peer.peer_id)), Calls)
            await node.stop()
