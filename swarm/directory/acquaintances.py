"""Members that we have met: those of the views that we took, and of an earlier life, remembered on disk.

Kept in memory as they come, written from time to time: with all initial peers gone they are the way back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from multiaddr import Multiaddr

from swarm.errors import AddressInvalid
from swarm.log import get_logger
from swarm.membership import PeerCache
from swarm.membership.peer_cache import MAX_ADDRS
from swarm.network import Peer, parse_addr, peer_id_of
from swarm.network.addresses import direct_endpoint
from swarm.types import PeerId, Reach, ServerRecord

WRITE_INTERVAL = 30.0
"""Seconds between two writes at least; the first one follows the first view."""

MAX_PEERS = 32
"""Members that are remembered: the cache has room for two addresses of each."""

_ADDRS_OF_A_PEER = 2

logger = get_logger(__name__)


class Acquaintances:
    """The members met of one swarm; `keep` writes them down.

    Args:
        cache: Where; None remembers for this life only.
    """

    def __init__(self, peer: Peer, initial_peers: Sequence[Multiaddr], cache: PeerCache | None) -> None:
        self._us = peer.peer_id
        self._initial_peers = {peer_id_of(addr) for addr in initial_peers}
        self._cache = cache
        self._met: dict[PeerId, tuple[Multiaddr, ...]] = {}
        self._has_news = asyncio.Event()
        for addr in _parsed(cache.read()) if cache is not None else ():
            known = self._met.get(peer_id_of(addr), ())
            self._met[peer_id_of(addr)] = (*known, addr)

    @classmethod
    def of(cls, peer: Peer, initial_peers: Sequence[Multiaddr]) -> Acquaintances:
        """Return those of the swarm that `peer` joins through these, kept where the user's other caches are."""
        ids = [peer_id_of(addr) for addr in initial_peers]
        return cls(peer, initial_peers, PeerCache.of(ids, peer.config.swarm_key))

    def addrs(self) -> tuple[Multiaddr, ...]:
        """Return where they are, those first that we met last."""
        return tuple(addr for addrs in reversed(self._met.values()) for addr in addrs)

    def meet(self, records: Iterable[ServerRecord]) -> None:
        """Remember the servers of a view."""
        before = dict(self._met)
        for record in records:
            if record.peer in self._initial_peers or record.peer == self._us or record.reach is Reach.UNREACHABLE:
                continue
            addrs = tuple(addr for addr in _parsed(record.addrs) if peer_id_of(addr) == record.peer)
            dialable = [addr for addr in addrs if direct_endpoint(addr) is None]  # the daemon takes no others
            if dialable:
                self._met.pop(record.peer, None)  # the last met shall stand last
                self._met[record.peer] = tuple(dialable[:_ADDRS_OF_A_PEER])
        for peer in list(self._met)[: max(0, len(self._met) - MAX_PEERS)]:
            del self._met[peer]
        if self._met != before:
            self._has_news.set()

    async def keep(self) -> None:
        """Write down whom we met, whenever that changed; a task of the directory. Cancelled: the latest is written."""
        if self._cache is None:
            return
        try:
            while True:
                await self._has_news.wait()
                self._has_news.clear()
                # The disk may take its time, and steps go through this loop.
                await asyncio.to_thread(self._cache.write, self._texts())
                await asyncio.sleep(WRITE_INTERVAL)
        finally:
            if self._has_news.is_set():
                self._cache.write(self._texts())

    def _texts(self) -> list[str]:
        return [str(addr) for addr in self.addrs()][:MAX_ADDRS]


def _parsed(texts: Iterable[str]) -> list[Multiaddr]:
    found = []
    for text in texts:
        try:
            found.append(parse_addr(text))
        except AddressInvalid as error:
            logger.debug("%s", error)
    return found
