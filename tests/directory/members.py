"""Builders for tests: a record, and a peer with its directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from multiaddr import Multiaddr

from swarm.directory import Directory, Timeouts
from swarm.network import NetworkConfig, Peer
from swarm.swarm_key import SwarmKey
from swarm.types import PeerId, ServerRecord, ServerState, Span, View

MODEL = "tiny"


def record_of(peer: PeerId, **changes: Any) -> ServerRecord:
    record = ServerRecord(
        peer=peer,
        model=MODEL,
        fingerprint="ab" * 8,
        num_blocks=4,
        span=Span(0, 2),
        digests=("a" * 16, "b" * 16),
        state=ServerState.ONLINE,
        decode_per_s=100.0,
        prefill_per_s=1000.0,
        free_pages=10,
        load=0,
        dtype="float32",
        quant="none",
        addrs=(f"/ip4/127.0.0.1/tcp/1/p2p/{peer}",),
        public_name="",
        version="0.1.0",
        expires_at=0.0,
    )
    return replace(record, **changes)


@dataclass
class Member:
    """A peer and its directory."""

    peer: Peer
    directory: Directory

    @property
    def record(self) -> ServerRecord:
        return record_of(self.peer.peer_id)

    async def announce(self, *, ttl: float = 60.0, **changes: Any) -> bool:
        return await self.directory.announce(replace(self.record, **changes), ttl=ttl)

    async def sees(self, model: str = MODEL) -> set[PeerId]:
        return ids(await self.directory.view(model))


def ids(view: View) -> set[PeerId]:
    return {record.peer for record in view.records}


@asynccontextmanager
async def member(
    *initial_peers: Multiaddr,
    is_client: bool = False,
    key: Path | None = None,
    host: str = "/ip4/127.0.0.1/tcp/0",
    timeouts: Timeouts | None = None,
    swarm_key: SwarmKey | None = None,
) -> AsyncIterator[Member]:
    config = NetworkConfig(is_listening=not is_client, identity_path=key, host_maddrs=(host,), swarm_key=swarm_key)
    async with (
        Peer.open(config) as peer,
        Directory.open(peer, initial_peers=initial_peers, client_mode=is_client, timeouts=timeouts) as directory,
    ):
        yield Member(peer, directory)


async def until_all_see(members: Sequence[Member], expected: set[PeerId], *, timeout: float) -> None:
    """Wait until each member's view holds exactly the expected peers."""
    async with asyncio.timeout(timeout):
        while any([await each.sees() != expected for each in members]):
            await asyncio.sleep(0.1)
