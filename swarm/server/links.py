"""Links: our own channels to the hops after us, over which outputs are pushed.

There is one per next peer, shared by all sessions and dialled when the first of them opens, so
that a first step rarely waits for it. What is sent while a dial is under way goes out in order
once it succeeds; if it fails, each sender is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from swarm.errors import Busy, PeerUnreachable, SwarmError
from swarm.log import get_logger
from swarm.network import Channel, Peer
from swarm.types import PeerId
from swarm.wire import Error, Message

logger = get_logger(__name__)

MAX_PENDING = 1024
"""Messages that may wait for one dial: more come only from a client that does not wait for answers."""

MAX_LINKS = 512
"""Next hops, dialled or being dialled: clients choose them, and each costs sockets."""

Failed = Callable[[SwarmError], None]


@dataclass(slots=True)
class _Pending:
    message: Message
    body: memoryview
    failed: Failed


@dataclass(slots=True)
class _Link:
    channel: Channel | None = None
    pending: list[_Pending] = field(default_factory=list)
    is_dialling: bool = False


class Links:
    """Sends messages to next hops; lives in the server's task group.

    Args:
        on_error: An Error came back over a link: the next hop does not know the session, say.
        on_lost: A link ended; steps pushed over it may be lost.
    """

    def __init__(
        self,
        peer: Peer,
        tasks: asyncio.TaskGroup,
        *,
        on_error: Callable[[Error], None],
        on_lost: Callable[[PeerId], None],
    ) -> None:
        self._peer = peer
        self._tasks = tasks
        self._on_error = on_error
        self._on_lost = on_lost
        self._links: dict[PeerId, _Link] = {}

    def warm(self, peer: PeerId, addrs: tuple[str, ...]) -> None:
        """Dial `peer` in the background unless a link is up already.

        Raises:
            Busy: Too many peers are linked to.
        """
        link = self._link(peer)
        if not link.is_dialling and (link.channel is None or not link.channel.is_open):
            link.is_dialling = True
            self._tasks.create_task(self._dial(peer, addrs, link))

    def send(self, peer: PeerId, addrs: tuple[str, ...], message: Message, body: memoryview, failed: Failed) -> None:
        """Send now, or once the dial under way succeeds; `failed` is called at most once.

        Raises:
            SwarmError: The link is up and does not take the message, or too many wait for it already.
        """
        link = self._link(peer)
        if link.channel is not None and link.channel.is_open and not link.pending:
            link.channel.send(message, body)
        elif len(link.pending) >= MAX_PENDING:
            raise Busy(f"too many steps wait for a dial to {peer}")
        else:
            link.pending.append(_Pending(message, body, failed))
            self.warm(peer, addrs)

    def try_send_now(self, peer: PeerId, frames: Sequence[tuple[Message, memoryview]]) -> bool:
        """Send from the compute thread, if the link is up and allows it; False if `send` has to, on the loop."""
        link = self._links.get(peer)
        if link is None or link.channel is None or link.pending:
            return False
        return link.channel.try_send_now(frames)

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        """Take what comes back over a link; only errors do."""
        if isinstance(message, Error):
            self._on_error(message)

    def closed(self, channel: Channel, reason: Exception | None) -> None:
        """Note that a link ended."""
        link = self._links.get(channel.remote)
        if link is not None and link.channel is channel and not link.is_dialling:
            del self._links[channel.remote]
        self._on_lost(channel.remote)

    def _link(self, peer: PeerId) -> _Link:
        if peer not in self._links and len(self._links) >= MAX_LINKS:
            raise Busy(f"{len(self._links)} next hops are linked to from here, no more are")
        return self._links.setdefault(peer, _Link())

    async def _dial(self, peer: PeerId, addrs: tuple[str, ...], link: _Link) -> None:
        try:
            link.channel = await self._peer.channel(peer, addrs)
            link.channel.receiver = self
        except Exception as error:  # a stranger's addresses: nothing they lead to may end this server
            fault = None if isinstance(error, SwarmError) else error
            logger.warning("peer %s: no link for pushing: %s", peer, error, exc_info=fault)
            del self._links[peer]
            for waiting in link.pending:
                waiting.failed(PeerUnreachable(f"no link to the next hop {peer}: {error}"))
        else:
            link.is_dialling = False
            self._flush(link.channel, link)

    def _flush(self, channel: Channel, link: _Link) -> None:
        while link.pending:  # until they are sent, nothing overtakes them
            waiting = link.pending[0]
            try:
                channel.send(waiting.message, waiting.body)
            except SwarmError as error:
                waiting.failed(error)
            link.pending.pop(0)
