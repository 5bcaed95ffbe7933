"""The channels that we dial: one per peer, directly where that works, else through libp2p."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from hivemind.p2p import PeerID
from multiaddr import Multiaddr

from swarm.errors import PeerUnreachable, SwarmError
from swarm.log import get_logger
from swarm.network import dialling
from swarm.network.addresses import direct_endpoint, parse_addr, peer_id_of
from swarm.network.channel import Channel
from swarm.network.config import NetworkConfig
from swarm.network.daemon import Daemon
from swarm.network.identity import Identity
from swarm.network.opening import Opening
from swarm.network.stream import Stream
from swarm.types import PeerId

logger = get_logger(__name__)


class Adopt(Protocol):
    """Makes a channel of a stream."""

    def __call__(
        self,
        stream: Stream,
        remote: PeerId,
        *,
        is_dialled: bool,
        on_ready: Callable[[Channel], None],
        on_gone: Callable[[Channel], None],
    ) -> None:
        """Own the stream from now on; tell when both sides said Hello, and when it ended."""
        ...


class Dialler:
    """Keeps one dialled channel per peer, and shares the attempt at it among all who ask."""

    def __init__(self, daemon: Daemon, identity: Identity, config: NetworkConfig, adopt: Adopt) -> None:
        self._daemon = daemon
        self._identity = identity
        self._config = config
        self._adopt = adopt
        self._dialled: dict[PeerId, Channel] = {}
        self._attempts: dict[PeerId, asyncio.Task[Channel]] = {}
        self._no_direct_until: dict[PeerId, float] = {}

    async def channel(self, peer: PeerId, addrs: Sequence[str] = ()) -> Channel:
        """Return the channel that we dialled to `peer`, or dial it; concurrent callers share one attempt.

        Args:
            addrs: Where `peer` may be, each with /p2p/ID; without any, where the daemon remembers it.

        Raises:
            PeerUnreachable: No connection, or no answer to our Hello.
            VersionMismatch: No protocol version in common.
            WrongSwarmKey: It has another swarm key than ours, or one of us has none.

        Cancelled: the attempt goes on for others that wait for it, and is given up when nobody does.
        """
        channel = self._dialled.get(peer)
        if channel is not None and channel.is_open:
            return channel
        task = self._attempts.get(peer)
        if task is None:
            task = self._attempts[peer] = asyncio.create_task(self._open_channel(peer, tuple(addrs)))
            task.add_done_callback(lambda done: self._on_attempt_done(peer, done))
        # The shield: one caller that gives up must not end the attempt of the others.
        return await asyncio.shield(task)

    @asynccontextmanager
    async def brief_channel(self, peer: PeerId, addrs: Sequence[str] = ()) -> AsyncIterator[Channel]:
        """Open a channel through libp2p that nobody else is given; leaving the block ends it.

        The next one who wants a channel to `peer` shall not get this one, where a direct one can be had.

        Raises:
            PeerUnreachable, VersionMismatch: As `channel`.
        """
        opening = Opening(
            peer, lambda stream: self._adopt(stream, peer, is_dialled=True, on_ready=opening.succeed, on_gone=on_gone)
        )

        def on_gone(channel: Channel) -> None:
            self.forget(channel)
            opening.fail(channel.reason)

        channel = await self._open_by_libp2p(opening, peer, _of_peer(peer, addrs))
        try:
            yield channel
        finally:
            channel.abort()

    def forget(self, channel: Channel) -> None:
        """The channel has ended."""
        if self._dialled.get(channel.remote) is channel:
            del self._dialled[channel.remote]

    async def close(self) -> None:
        """Give up all attempts."""
        for task in tuple(self._attempts.values()):
            task.cancel()
        await asyncio.gather(*self._attempts.values(), return_exceptions=True)

    async def _open_channel(self, peer: PeerId, addrs: tuple[str, ...]) -> Channel:
        timeouts = self._config.timeouts
        try:
            PeerID.from_base58(peer)
        except ValueError as error:
            raise PeerUnreachable(f"{peer!r:.80} is no peer id") from error
        if peer == self._identity.peer_id:
            raise PeerUnreachable(f"peer {peer} is this very peer; it needs no channel")
        found = _of_peer(peer, addrs)
        endpoints = [endpoint for addr in found if (endpoint := direct_endpoint(addr)) is not None]
        if not self._config.use_direct:
            endpoints = []
        failure = None
        if endpoints and self._no_direct_until.get(peer, 0.0) <= self._now():
            try:
                return await self._opening(peer).over_tls(self._identity, endpoints, timeouts)
            except PeerUnreachable as error:
                logger.debug("%s; trying libp2p", error)
                failure = error
        try:
            channel = await self._open_by_libp2p(self._opening(peer), peer, found)
        except PeerUnreachable as error:
            raise PeerUnreachable(f"{error}; {failure}") if failure else error from None
        if endpoints:  # it lives, but cannot be reached directly: not tried again for a while
            self._no_direct_until = {who: until for who, until in self._no_direct_until.items() if until > self._now()}
            self._no_direct_until.setdefault(peer, self._now() + timeouts.direct_retry)
        return channel

    async def _open_by_libp2p(self, opening: Opening, peer: PeerId, found: Sequence[Multiaddr]) -> Channel:
        timeouts = self._config.timeouts
        if not found or not await dialling.is_connected(self._daemon, peer):
            others = [addr for addr in found if direct_endpoint(addr) is None]
            await dialling.connect(self._daemon, peer, others, timeout=timeouts.dial)
        return await opening.over_daemon(self._daemon, timeout=timeouts.hello)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _opening(self, peer: PeerId) -> Opening:
        def on_ready(channel: Channel) -> None:
            self._dialled[peer] = channel
            opening.succeed(channel)

        def on_gone(channel: Channel) -> None:
            self.forget(channel)
            opening.fail(channel.reason)

        opening = Opening(
            peer, lambda stream: self._adopt(stream, peer, is_dialled=True, on_ready=on_ready, on_gone=on_gone)
        )
        return opening

    def _on_attempt_done(self, peer: PeerId, task: asyncio.Task[Channel]) -> None:
        del self._attempts[peer]
        if not task.cancelled():
            task.exception()  # marks it as seen: all who waited may have given up


def _of_peer(peer: PeerId, texts: Sequence[str]) -> list[Multiaddr]:
    """Those addresses that can be parsed and belong to `peer`: they may come from a stranger's record."""
    found = []
    for text in texts:
        try:
            addr = parse_addr(text)
        except SwarmError as error:
            logger.debug("peer %s: %s", peer, error)
            continue
        if peer_id_of(addr) == peer:
            found.append(addr)
    return found
