"""Visits: what a peer says when we come as a client would, Hello for Hello; and whom to visit of many."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.doctor.probes.knocks import MAX_KNOCKS, Knock, knock
from swarm.errors import AddressInvalid, PeerUnreachable, RemoteError, SwarmError, UnavailableError
from swarm.network import Peer, best_first, parse_addr, peer_id_of
from swarm.types import PeerId, ServerRecord, ServerState, View

GREET = 4.0
"""Seconds for a channel: directly, and if that fails through libp2p."""

MAX_VISITED = 16
"""Servers that are dialled: each of thousands of doctors' runs must cost a large swarm little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a peer answered to our Hello: its software, or why there is no channel."""

    software: str = ""
    error: SwarmError | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """A server's record, and what was found at its addresses."""

    record: ServerRecord
    knocks: tuple[Knock, ...]
    greeting: Greeting


async def greet(peer: Peer, who: PeerId, addrs: Sequence[str]) -> Greeting:
    """Open a channel to `who`, as a client does."""
    try:
        async with asyncio.timeout(GREET):
            channel = await peer.channel(who, addrs)
    except TimeoutError:
        return Greeting(error=PeerUnreachable(f"peer {who}: no channel within {GREET:g} s"))
    except (RemoteError, UnavailableError) as error:
        return Greeting(error=error)
    return Greeting(software=channel.hello.software if channel.hello else "")


async def visit(peer: Peer, record: ServerRecord) -> Visit:
    """Knock at a server's addresses, and greet it."""
    knocks, greeting = await asyncio.gather(knock_at(record), greet(peer, record.peer, record.addrs))
    return Visit(record, knocks, greeting)


async def knock_at(record: ServerRecord) -> tuple[Knock, ...]:
    """Knock at a server's addresses, those first that others can use."""
    own = []
    for text in record.addrs:  # a stranger's record: what is no address of its own is nobody's to dial
        try:
            addr = parse_addr(text)
        except AddressInvalid:
            continue
        if peer_id_of(addr) == record.peer:
            own.append(addr)
    return tuple(await asyncio.gather(*(knock(addr) for addr in best_first(own)[:MAX_KNOCKS])))


def choose(views: Sequence[View], limit: int = MAX_VISITED) -> tuple[list[tuple[View, ServerRecord]], int]:
    """Return whom to visit, `limit` at most, drawn by chance, and how many there are: of each server one record."""
    online = {
        record.peer: (view, record) for view in views for record in view.records if record.state is ServerState.ONLINE
    }
    servers = list(online.values())
    return random.sample(servers, min(limit, len(servers))), len(servers)


def is_same(record: ServerRecord, latest: ServerRecord | None) -> bool:
    """Whether what was found of `record` may still be held against its server: it has not left or moved meanwhile."""
    return latest is not None and latest.state is ServerState.ONLINE and latest.addrs == record.addrs
