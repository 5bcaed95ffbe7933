"""Hosts joined by links in memory: real peers, dialling each other, over transports that take virtual time.

A link is the pair of hosts; each connection between them is a stream in order, but two connections of a link may
overtake each other where there is jitter. A cut link holds everything back until it is mended, as TCP would, that
sends again and again; whoever waits for it hears nothing meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hivemind.proto import p2pd_pb2

from swarm.errors import PeerUnreachable
from swarm.network import NetworkConfig, Peer
from swarm.network import direct as direct_module
from swarm.network.addresses import Endpoint
from swarm.network.config import Timeouts
from swarm.network.daemon import Daemon
from swarm.network.identity import Identity
from swarm.network.stream import Stream
from swarm.types import PeerId
from tests.virtual.loop import START

_HIGH_WATER = 512 * 1024
"""Bytes held back by a cut at which a protocol is told to pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Seconds one way, and how many more at most."""

    delay: float = 0.001
    jitter: float = 0.0


class VirtualNet:
    """Makes peers and carries their bytes; lives on a virtual loop, in a `with` of `net.open()`."""

    def __init__(self, *, delay: float = 0.001, jitter: float = 0.0, seed: int = 0) -> None:
        self._terms = Terms(delay=delay, jitter=jitter)
        self._own: dict[frozenset[str], Terms] = {}
        self._cut: set[frozenset[str]] = set()
        self._dead: set[str] = set()
        self._peers: dict[str, Peer] = {}
        self._hosts: dict[str, str] = {}  # by address
        self._names: dict[PeerId, str] = {}
        self._beats: dict[str, asyncio.Task[None]] = {}
        self._wires: list[Wire] = []
        self.dice = random.Random(seed)

    @property
    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return asyncio.get_running_loop().time() - START

    @asynccontextmanager
    async def open(self) -> AsyncIterator[VirtualNet]:
        """Let direct connections go through this net; the peers end with the block."""
        with patch.object(direct_module, "connect", self._connect):
            try:
                yield self
            finally:
                for name in list(self._beats):
                    self.kill(name)
                await asyncio.sleep(0)

    def peer(self, name: str, *, timeouts: Timeouts | None = None) -> Peer:
        """Return the peer on a host of this name, a killed one if there was one; its id is the same in each run."""
        number = len(self._hosts) + 1
        known = (address for address, host in self._hosts.items() if host == name)
        address = next(known, f"10.0.{number // 250}.{number % 250 + 1}")
        self._dead.discard(name)
        key = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b".")[:32])
        identity = Identity(key, Path("/nonexistent"), is_temporary=False, lock=None)
        config = NetworkConfig(is_listening=False, timeouts=timeouts or Timeouts())
        peer = Peer(cast(Daemon, _NoDaemon()), identity, config)
        self._peers[name], self._hosts[address], self._names[peer.peer_id] = peer, name, name
        self._beats[name] = asyncio.create_task(peer._channels.beat(peer.config.timeouts.heartbeat_interval / 2))
        return peer

    def addrs(self, name: str) -> tuple[str, ...]:
        """Return where a host can be dialled."""
        address = next(address for address, host in self._hosts.items() if host == name)
        return (f"/ip4/{address}/tcp/1/tls/p2p/{self._peers[name].peer_id}",)

    def name(self, peer: PeerId) -> str:
        """Return the host on which a peer lives."""
        return self._names[peer]

    def set(self, one: str | None = None, other: str | None = None, **terms: float) -> None:
        """Change `delay` or `jitter` between two hosts, or of all pairs that have none of their own."""
        if one is None or other is None:
            self._terms = replace(self._terms, **terms)
        else:
            pair = frozenset((one, other))
            self._own[pair] = replace(self._own.get(pair, self._terms), **terms)

    def cut(self, one: str, other: str | None = None) -> None:
        """Let nothing through between two hosts, or between one and all others."""
        self._cut |= self._pairs(one, other)

    def mend(self, one: str, other: str | None = None) -> None:
        """Let everything through again, what was held back first."""
        self._cut -= self._pairs(one, other)
        for wire in list(self._wires):
            wire.go_on()

    def drop(self, one: str, other: str) -> None:
        """Break all connections between two hosts: both ends are told so, at once."""
        self._break(frozenset((one, other)))

    def kill(self, name: str) -> None:
        """A host is gone: its connections break, and dials to it are refused. Its code must be ended by its owner."""
        self._dead.add(name)
        if (beat := self._beats.pop(name, None)) is not None:
            beat.cancel()
        for wire in list(self._wires):
            if name in wire.hosts:
                wire.break_off(told=self.terms(*wire.hosts).delay)

    def is_cut(self, hosts: Sequence[str]) -> bool:
        """Whether nothing goes through between these two."""
        return frozenset(hosts) in self._cut

    def terms(self, one: str, other: str) -> Terms:
        """Return the terms between two hosts."""
        return self._own.get(frozenset((one, other)), self._terms)

    def latency(self, one: str, other: str) -> float:
        """Return the seconds that the next bytes between two hosts take."""
        terms = self.terms(one, other)
        return terms.delay + terms.jitter * self.dice.random()

    def forget(self, wire: Wire) -> None:
        """A connection has ended."""
        if wire in self._wires:
            self._wires.remove(wire)

    def _pairs(self, one: str, other: str | None) -> set[frozenset[str]]:
        others = [name for name in self._peers if name != one] if other is None else [other]
        return {frozenset((one, name)) for name in others}

    def _break(self, pair: frozenset[str]) -> None:
        for wire in list(self._wires):
            if frozenset(wire.hosts) == pair:
                wire.break_off(told=0.0)

    async def _connect(self, identity: Identity, peer: PeerId, endpoints: Sequence[Endpoint], _: Timeouts) -> Stream:
        """What `swarm.network.direct.connect` does, without sockets: two round trips, for TCP and for TLS."""
        one, other = self._names[identity.peer_id], self._hosts.get(endpoints[0][0], "")
        if other not in self._peers:
            raise PeerUnreachable(f"peer {peer}: no route to the host")
        for _leg in range(4):
            await asyncio.sleep(self.latency(one, other))
            while self.is_cut((one, other)):
                await asyncio.sleep(0.2)
            if other in self._dead or one in self._dead:
                raise PeerUnreachable(f"peer {peer}: connection refused")
        near, far = Stream(None), Stream(None)
        wire = Wire(self, (one, other), (near, far))
        self._wires.append(wire)
        for stream, end in zip((near, far), wire.ends, strict=True):
            stream.connection_made(end)
        self._peers[other]._on_inbound(far, identity.peer_id)
        return near


class Wire:
    """One connection: both ends, and what is under way between them."""

    def __init__(self, net: VirtualNet, hosts: tuple[str, str], streams: tuple[Stream, Stream]) -> None:
        self.net = net
        self.hosts = hosts
        self.ends = (End(self, 0, streams[0]), End(self, 1, streams[1]))

    def break_off(self, *, told: float) -> None:
        """End without a goodbye; both ends are told after so many seconds, what is under way is lost."""
        loop = asyncio.get_running_loop()
        self.net.forget(self)
        for end in self.ends:
            end.queue.clear()
            end.is_broken = True
            loop.call_later(told, end.finish, ConnectionResetError("the connection was reset"))

    def go_on(self) -> None:
        """Send what was held back."""
        for end in self.ends:
            end.go_on()


class End(asyncio.Transport):
    """A transport in memory: bytes go to the other end of the wire, in order, each after its latency."""

    def __init__(self, wire: Wire, side: int, protocol: Stream) -> None:
        super().__init__()
        self.queue: deque[tuple[float, bytes | None]] = deque()  # when it is due, and what; None is our end
        self.is_broken = False
        self._wire = wire
        self._side = side
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._is_closing = self._is_finished = self._is_paused = self._is_writing_paused = False
        self._has_eof = False
        self._due_at = 0.0

    @property
    def other(self) -> End:
        return self._wire.ends[1 - self._side]

    def write(self, data: Any) -> None:
        if not self._is_closing:
            self._put(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(bytes(data) for data in list_of_data))

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self._is_closing or self.is_broken

    def get_write_buffer_size(self) -> int:
        is_held = self._wire.net.is_cut(self._wire.hosts)
        return sum(len(data or b"") for _, data in self.queue) if is_held else 0

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        self.other.go_on()

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._put(None)

    def abort(self) -> None:
        if self._is_finished:
            return
        self._is_closing = True
        self.queue.clear()
        self._wire.net.forget(self._wire)
        self._put(None)
        self._loop.call_soon(self.finish, None)

    def finish(self, error: Exception | None) -> None:
        """Tell the protocol that it is over."""
        if not self._is_finished:
            self._is_finished = self._is_closing = True
            self._protocol.connection_lost(error)

    def go_on(self) -> None:
        """Deliver what is due; the rest in its time."""
        net, other, now = self._wire.net, self.other, self._loop.time()
        while self.queue and not (net.is_cut(self._wire.hosts) or other._is_paused or other._is_finished):
            due, data = self.queue[0]
            if due > now + 1e-9:
                self._loop.call_at(due, self.go_on)
                return
            self.queue.popleft()
            other._take(data)
        if self._is_writing_paused and self.get_write_buffer_size() <= _HIGH_WATER:
            self._is_writing_paused = False
            self._protocol.resume_writing()

    def _put(self, data: bytes | None) -> None:
        if self.is_broken:
            return
        arrival = self._loop.time() + self._wire.net.latency(*self._wire.hosts)
        self._due_at = max(arrival, self._due_at)
        self.queue.append((self._due_at, data))
        if len(self.queue) == 1:
            self._loop.call_at(self._due_at, self.go_on)
        if not self._is_writing_paused and self.get_write_buffer_size() > _HIGH_WATER:
            self._is_writing_paused = True
            self._protocol.pause_writing()

    def _take(self, data: bytes | None) -> None:
        if data is None:
            self._has_eof = True
            if not self._is_closing:
                self._protocol.eof_received()
                self.close()
            self._wire.net.forget(self._wire)
            self._loop.call_soon(self.finish, None)
            return
        rest = memoryview(data)
        while rest and not self._is_closing:
            buffer = self._protocol.get_buffer(-1)
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            self._protocol.buffer_updated(count)
            rest = rest[count:]


class _NoDaemon:
    """A libp2p daemon that knows nobody: whoever cannot be reached directly is out of reach here."""

    async def request(self, request: Any, *, timeout: float | None = None) -> Any:
        if request.type == p2pd_pb2.Request.LIST_PEERS:
            return p2pd_pb2.Response(type=p2pd_pb2.Response.OK)
        raise ConnectionRefusedError(111, "connection refused")
