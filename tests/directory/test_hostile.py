"""A node of the DHT that keeps no rule: it stores what it likes with others, and answers what it likes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hivemind.dht import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.p2p import PeerID
from hivemind.utils import MSGPackSerializer

from swarm.directory.signed import REGISTRY_KEY, model_key, seal_record
from swarm.network import Identity, NetworkConfig, Peer
from tests.directory.members import MODEL, Member, member, record_of

KEY = DHTID.generate(source=model_key(MODEL))
dumps = MSGPackSerializer.dumps


@asynccontextmanager
async def hostile(honest: Member) -> AsyncIterator[tuple[Peer, Any]]:
    """A peer with a bare hivemind node that knows `honest` and is known to it."""
    async with Peer.open(NetworkConfig()) as peer:
        await peer.dial(honest.peer.addrs[0])
        place = DHTID.generate(source=peer.p2p.peer_id.to_bytes())  # elsewhere nobody would ask it
        addr = str(honest.peer.addrs[0])
        node = await DHTNode.create(p2p=peer.p2p, node_id=place, initial_peers=[addr], cache_locally=False)
        async with asyncio.timeout(5):
            while not honest.directory.is_connected:
                await asyncio.sleep(0.01)
        yield peer, node
        await node.shutdown()


async def test_an_honest_node_stores_nothing_that_breaks_the_rules() -> None:
    async with member() as honest, hostile(honest) as (peer, node):
        await honest.announce()
        now, identity, victim = time.time(), peer.identity, honest.peer.peer_id
        good = seal_record(record_of(identity.peer_id), identity, expires_at=now + 60)
        forged = seal_record(record_of(victim), identity, expires_at=now + 90)
        late = seal_record(record_of(identity.peer_id), identity, expires_at=now + 5000)
        stale = seal_record(record_of(identity.peer_id), identity, expires_at=now - 5)
        cases: list[tuple[Any, bytes, float]] = [
            (identity.peer_id, b"\xc1 no msgpack", now + 60),
            (identity.peer_id, b"", now + 60),
            (identity.peer_id, dumps(good) + b"x", now + 60),
            (victim, dumps(forged), now + 90),
            (identity.peer_id, dumps(forged), now + 90),
            (identity.peer_id, dumps(late), now + 5000),
            (identity.peer_id, dumps(stale), now - 5),
            (identity.peer_id, dumps([b"x" * 200_000, b"y" * 64]), now + 60),
            (identity.peer_id, dumps(good), now + 61),
            (None, dumps(good), now + 60),
            (7, dumps(good), now + 60),
        ]
        remote = PeerID.from_base58(victim)
        for subkey, value, expires_at in cases:
            for in_cache in (False, True):
                stored = await node.protocol.call_store(remote, [KEY], [value], [expires_at], [subkey], in_cache)
                assert not (stored and any(stored)), (subkey, value[:40])
        spoiled = DictionaryDHTValue()
        spoiled.store(identity.peer_id, b"\xc1", now + 60)
        assert await node.protocol.call_store(remote, [KEY], [spoiled], [now + 60]) == [False]
        began = time.monotonic()
        assert await honest.sees() == {victim} and time.monotonic() - began < 2
        assert await node.protocol.call_store(remote, [KEY], [dumps(good)], [now + 60], [identity.peer_id]) == [True]
        assert await honest.sees() == {victim, identity.peer_id}


@pytest.mark.slow
@pytest.mark.parametrize("subkey", ["own", "other", 7, b"\xff"])
@pytest.mark.parametrize("expires_in", [60.0, 1e9, float("inf")])
async def test_what_a_hostile_node_answers_neither_breaks_nor_hides_the_view(subkey: object, expires_in: float) -> None:
    async with member() as honest, hostile(honest) as (peer, node):
        await honest.announce()
        named = peer.peer_id if subkey == "own" else subkey
        lie = DictionaryDHTValue()
        lie.store(named, b"\xc1 no msgpack", time.time() + expires_in)
        for key in (KEY, DHTID.generate(source=REGISTRY_KEY)):
            node.protocol.storage.store(key, lie, time.time() + expires_in)
        await until_asked(honest, {honest.peer.peer_id})
        assert [each.name for each in await honest.directory.models()] == [MODEL]


@pytest.mark.slow
@pytest.mark.parametrize("spoil", ["empty for ever", "bad maxsize", "bad expiry", "regular value"])
async def test_a_dictionary_with_false_bookkeeping_does_not_end_the_search(spoil: str) -> None:
    async with member() as server, hostile(server) as (peer, node):
        await server.announce()
        expires_at = time.time() + 60
        own = dumps(seal_record(record_of(peer.peer_id), peer.identity, expires_at=expires_at))
        lie: Any = DictionaryDHTValue()
        if spoil != "empty for ever":
            lie.store(peer.peer_id, own, expires_at)
        if spoil == "bad maxsize":
            lie.maxsize = 1
        elif spoil == "bad expiry":
            lie.latest_expiration_time = float("inf")
        elif spoil == "regular value":
            lie = own
        node.protocol.storage.clear()
        node.protocol.storage.store(KEY, lie, float("inf"))
        # A client holds nothing itself: all that it sees came from the honest server or the hostile node.
        async with member(*server.peer.addrs, *peer.addrs, is_client=True) as client:
            answer = await client.directory._node._node.protocol.call_find(PeerID.from_base58(peer.peer_id), [KEY])
            found = answer[KEY][0]
            if spoil in ("empty for ever", "regular value"):
                assert found is None
            else:
                assert found.expiration_time == expires_at and found.value.maxsize == float("inf")
            for _ in range(3):
                began = time.monotonic()
                assert server.peer.peer_id in await client.sees() and time.monotonic() - began < 2


@pytest.mark.slow
async def test_a_record_signed_by_its_peer_for_another_key_counts_nowhere() -> None:
    async with member() as honest, hostile(honest) as (peer, node):
        identity: Identity = peer.identity
        value = dumps(seal_record(record_of(peer.peer_id, model="other"), identity, expires_at=time.time() + 60))
        remote = PeerID.from_base58(honest.peer.peer_id)
        stored = await node.protocol.call_store(remote, [KEY], [value], [time.time() + 60], [peer.peer_id])
        assert not any(stored or [])
        assert await honest.sees() == set()


async def until_asked(honest: Member, expected: set[Any]) -> None:
    began = time.monotonic()
    for _ in range(3):
        assert await honest.sees() == expected
    assert time.monotonic() - began < 3


async def test_a_node_that_chose_its_place_is_in_nobodys_table() -> None:
    async with member() as honest, Peer.open(NetworkConfig()) as peer:
        await peer.dial(honest.peer.addrs[0])
        node = await DHTNode.create(
            p2p=peer.p2p, node_id=DHTID(int(KEY) ^ 1), initial_peers=[str(honest.peer.addrs[0])]
        )
        assert PeerID.from_base58(honest.peer.peer_id) in node.protocol.routing_table
        await asyncio.sleep(0.5)
        assert not honest.directory.is_connected
        await node.shutdown()
