"""hivemind's DHT node, started, guarded and ended as we need it; each call has a deadline.

Searches of hivemind trust three things that a stranger sends: a date beside a dictionary (one that
says "never expires" ends the search with whatever he gave), the dictionary's own bookkeeping (a
wrong type there makes the search hang), and that values are msgpack. The validator settles the last;
the guard here rebuilds each dictionary from its checked entries, which settles the others.

A node's place in the DHT follows from its peer id. One that chose it by chance at each start would stand in others'
tables many times after some restarts, so that a record's replicas would be one and the same peer; and anybody could
choose to stand next to a key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from hivemind.dht import DHTNode
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.p2p import P2PDaemonError, P2PHandlerError, PeerID
from hivemind.proto import dht_pb2
from hivemind.utils.timed_storage import ValueWithExpiration

from swarm.directory.config import NUM_REPLICAS, Timeouts
from swarm.directory.gate import Answers, Calls, Gate
from swarm.directory.signed import SignedRecords, Value
from swarm.directory.swarm_time import SWARM_TIME, install
from swarm.errors import PeerUnreachable
from swarm.log import get_logger
from swarm.swarm_key import SwarmKey
from swarm.types import PeerId

CALL_FAILURES = (TimeoutError, OSError, EOFError, P2PDaemonError, P2PHandlerError)
"""What a call to another node can end with."""

logger = get_logger(__name__)

_Stored = tuple[bytes, bytes, float]
"""Key, subkey and expiry."""


class Node:
    """One node of the DHT on a peer's P2P."""

    def __init__(
        self, node: Any, timeouts: Timeouts, taken: dict[_Stored, bool], gate: Gate | None, *, is_client: bool
    ) -> None:
        self._node = node
        self._gate = gate
        self._timeouts = timeouts
        self._taken = taken
        self._is_client = is_client

    @classmethod
    async def start(cls, p2p: Any, timeouts: Timeouts, *, is_client: bool, swarm_key: SwarmKey | None = None) -> Node:
        """Start a node that knows nobody yet, and takes part in the directory of those who have the same key.

        Raises:
            TimeoutError: The daemon did not answer.
        """
        install()
        async with asyncio.timeout(timeouts.call):
            node = await DHTNode.create(
                p2p=p2p,
                node_id=_place(p2p.peer_id),
                num_replicas=NUM_REPLICAS,
                wait_timeout=timeouts.call,
                client_mode=is_client or swarm_key is not None,  # a private swarm's calls are put behind a gate first
                record_validator=SignedRecords(swarm_key),
                # A view must be fresh, and caches would spread goodbyes late; refreshing them also leaves tasks behind.
                cache_locally=False,
                cache_nearest=0,
                cache_on_store=False,
                cache_refresh_before_expiry=0,
            )
            taken = _guard(node.protocol)
            gate = None if swarm_key is None else Gate(swarm_key, p2p.peer_id)
            if gate is not None:
                await _put_behind(gate, node.protocol, is_client=is_client)
        return cls(node, timeouts, taken, gate, is_client=is_client)

    @property
    def neighbours(self) -> tuple[PeerId, ...]:
        """Who is in our routing table."""
        return tuple(PeerId(peer.to_base58()) for peer in self._node.protocol.routing_table.uid_to_peer_id.values())

    @property
    def is_hidden(self) -> bool:
        """Whether we stay out of others' routing tables."""
        return not self._node.protocol.node_info.node_id

    def hide(self, is_hidden: bool) -> None:
        """Stay out of others' routing tables, or let whomever we talk to from now on enter us."""
        if not self._is_client:
            node_id = b"" if is_hidden else self._node.node_id.to_bytes()
            self._node.protocol.node_info = dht_pb2.NodeInfo(node_id=node_id)

    @property
    def num_neighbours(self) -> int:
        """Nodes in our routing table."""
        return len(self._node.protocol.routing_table.uid_to_peer_id)

    def knows(self, peer: PeerId) -> bool:
        """Whether `peer` is in our routing table."""
        return PeerID.from_base58(peer) in self._node.protocol.routing_table

    async def ping(self, peer: PeerId) -> float | None:
        """Make `peer`'s acquaintance; return by how many seconds its clock is ahead of the swarm's time as we know it.

        Returns None if it tells no time. Raises whatever made the call fail.
        """
        protocol, remote = self._node.protocol, PeerID.from_base58(peer)
        asked_at = SWARM_TIME.now()
        stub = protocol.get_stub(remote)
        answer = await stub.rpc_ping(dht_pb2.PingRequest(peer=protocol.node_info), timeout=self._timeouts.call)
        midway = (asked_at + SWARM_TIME.now()) / 2
        if answer.peer.node_id:
            await protocol.update_routing_table(DHTID.from_bytes(answer.peer.node_id), remote, responded=True)
        return float(answer.dht_time) - midway if answer.dht_time else None

    async def ask_time(self, peer: PeerId) -> float | None:
        """As `ping`, with whatever makes the call fail in one class.

        Raises:
            PeerUnreachable: It does not answer.
            WrongSwarmKey: It answers as nobody of our swarm does.
        """
        try:
            async with asyncio.timeout(self._timeouts.call):
                return await self.ping(peer)
        except CALL_FAILURES as error:
            why = " ".join(str(error).split())[-160:] or type(error).__name__
            raise PeerUnreachable(f"peer {peer} answers no calls of the directory: {why}") from error

    async def look_around(self) -> None:
        """Search for our own id, which fills the routing table and makes us known."""
        async with asyncio.timeout(self._timeouts.get):
            await self._node.find_nearest_nodes([self._node.node_id])

    async def store(self, key: str, subkey: PeerId, value: Value, expires_at: float) -> bool:
        """Store a value; whether at least one node took it.

        Raises:
            TimeoutError: It took longer than `Timeouts.store`.
        """
        entry = DHTID.generate(source=key).to_bytes(), self._node.protocol.serializer.dumps(subkey), expires_at
        self._taken[entry] = False
        try:
            async with asyncio.timeout(self._timeouts.store):
                last = await self._node.store(key, value, expires_at, subkey=subkey, exclude_self=self.is_hidden)
            return bool(last) or self._taken.get(entry, False)
        finally:
            self._taken.pop(entry, None)

    async def get(self, key: str) -> dict[object, tuple[object, float]]:
        """Return the newest values under `key` by subkey, each with its expiry in the swarm's time.

        Raises:
            TimeoutError: The search took longer than `Timeouts.get`.
        """
        async with asyncio.timeout(self._timeouts.get):
            found = await self._node.get(key, latest=True)
        if found is None or not isinstance(found.value, Mapping):
            return {}
        return {subkey: (entry.value, entry.expiration_time) for subkey, entry in found.value.items()}

    async def stop(self) -> None:
        """Take no calls any more."""
        try:
            async with asyncio.timeout(self._timeouts.close):
                if self._gate is not None and not self._is_client:
                    await self._node.protocol.remove_p2p_handlers(self._node.p2p, namespace=self._gate.namespace)
                    self._node.protocol.client_mode = True  # there are no others to be removed
                await self._node.shutdown()
        except (TimeoutError, OSError, P2PDaemonError) as error:  # the daemon may be gone already
            logger.debug("node did not stop in order: %s", error)


def _place(peer: PeerID) -> DHTID:
    return DHTID.generate(source=peer.to_bytes())


async def _put_behind(gate: Gate, protocol: Any, *, is_client: bool) -> None:
    """Let a node that takes no calls yet make and take those of a private swarm."""

    def get_stub(peer: PeerID) -> Calls:
        stub = super(DHTProtocol, protocol).get_stub(protocol.p2p, peer, namespace=gate.namespace)
        return Calls(gate, stub, peer)

    protocol.get_stub = get_stub
    if not is_client:
        protocol.client_mode = False
        protocol.node_info = dht_pb2.NodeInfo(node_id=protocol.node_id.to_bytes())
        await protocol.add_p2p_handlers(protocol.p2p, Answers(gate, protocol), namespace=gate.namespace)


def _guard(protocol: Any) -> dict[_Stored, bool]:
    """Distrust what other nodes say; return where it is noted whether any of them took what is being stored."""
    trusting, storing, entering = protocol.call_find, protocol.call_store, protocol.update_routing_table
    taken: dict[_Stored, bool] = {}

    def in_place(nearest: Mapping[DHTID, PeerID]) -> dict[DHTID, PeerID]:
        # Ourselves, too, are nobody whom we could ask: hivemind's search fails over us where we hide or were before.
        return {node: peer for node, peer in nearest.items() if node == _place(peer) and node != protocol.node_id}

    async def call_find(peer: PeerID, keys: Collection[DHTID]) -> dict[Any, Any] | None:
        output = await trusting(peer, keys)
        if output is None:
            return None
        return {key: (_rebuilt(found), in_place(nearest)) for key, (found, nearest) in output.items()}

    async def call_store(peer: PeerID, keys: Any, values: Any, expiration_time: Any, *rest: Any, **more: Any) -> Any:
        # What hivemind's `store` returns is the answer that came last: one "no" would stand for all.
        answers = await storing(peer, keys, values, expiration_time, *rest, **more)
        if answers and (subkeys := more.get("subkeys")):
            for key, subkey, until, is_ok in zip(keys, subkeys, expiration_time, answers, strict=False):
                entry = key.to_bytes(), protocol.serializer.dumps(subkey), until
                if is_ok and entry in taken:
                    taken[entry] = True
        return answers

    async def update_routing_table(node_id: DHTID | None, peer: PeerID, responded: bool = True) -> None:
        if node_id is None or node_id == _place(peer):
            await entering(node_id, peer, responded=responded)

    protocol.call_find, protocol.call_store = call_find, call_store
    protocol.update_routing_table = update_routing_table
    return taken


def _rebuilt(found: Any) -> Any:
    if found is None or not isinstance(found.value, DictionaryDHTValue):
        return None  # a value without subkeys is never one of ours
    clean = DictionaryDHTValue()
    for subkey, entry in found.value.items():
        clean.store(subkey, entry.value, entry.expiration_time)
    return ValueWithExpiration(clean, clean.latest_expiration_time) if clean.data else None
