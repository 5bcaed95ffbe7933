"""A peer of the network: an identity, a libp2p daemon, and channels to others.

`Peer.open` owns the daemon and two tasks (watchdog, heartbeat), the peer its channels; all end with the `async with`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from hivemind.p2p import PeerID
from hivemind.proto import p2pd_pb2
from hivemind.utils.multiaddr import Multiaddr as DaemonMultiaddr
from multiaddr import Multiaddr

from swarm.errors import DaemonDied
from swarm.log import get_logger
from swarm.network import circuits, dialling
from swarm.network.addresses import direct_endpoint, host_of, parse_addr, parse_host_addr, peer_id_of, tcp_endpoint
from swarm.network.channel import Channel, Receiver
from swarm.network.channels import Channels, Traffic
from swarm.network.circuits import Reservation
from swarm.network.config import NetworkConfig
from swarm.network.daemon import Daemon
from swarm.network.dial_back import DialBacks
from swarm.network.dialler import Dialler
from swarm.network.direct import DirectListener, direct_addrs
from swarm.network.greeting import Greeting
from swarm.network.identity import Identity
from swarm.network.launching import running_daemon
from swarm.network.opening import STREAM_PROTOCOL
from swarm.network.stream import Stream
from swarm.types import PeerId
from swarm.wire import DialedBack

BACKLOG = 4096
"""Streams that may wait while the loop is busy: the usual 100 loses streams in bursts."""

Handler = Callable[[Channel], Receiver]
"""Called with each inbound channel once Hellos were exchanged; returns who receives its messages."""

logger = get_logger(__name__)


class Peer:
    """We, in the network. Made by `Peer.open`.

    Attributes:
        identity: Our key.
        addrs: Whole multiaddrs at which libp2p can dial us; empty for a pure client.
        direct_addrs: Where direct connections are taken (`swarm.network.direct`), once `serve` was called.
        config: As given.
    """

    def __init__(self, daemon: Daemon, identity: Identity, config: NetworkConfig) -> None:
        self.identity = identity
        self.config = config
        self.addrs: tuple[Multiaddr, ...] = ()
        self._daemon = daemon
        self._channels = Channels()
        self._dialler = Dialler(daemon, identity, config, self._add)
        self._handler: Handler | None = None
        self.direct_addrs: tuple[Multiaddr, ...] = ()
        self._server: asyncio.AbstractServer | None = None
        self._direct: DirectListener | None = None
        self._direct_port: int | None = None
        self._dial_backs = DialBacks(config.timeouts)
        self._died: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def peer_id(self) -> PeerId:
        """Our peer id."""
        return self.identity.peer_id

    @property
    def p2p(self) -> Any:
        """hivemind's P2P object, for the directory only."""
        return self._daemon.p2p

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All channels that are open, dialled and inbound."""
        return tuple(channel for channel in self._channels if channel.is_open)

    @property
    def traffic(self) -> dict[str, Traffic]:
        """What each carrier of channels has carried since our start."""
        return self._channels.traffic()

    @classmethod
    @asynccontextmanager
    async def open(cls, config: NetworkConfig) -> AsyncIterator[Peer]:
        """Start a peer; leaving the block ends its daemon, its channels and its tasks.

        Raises:
            AddressInUse, AddressInvalid, IdentityInUse, UsageError: The configuration cannot work.
            DaemonDied: The daemon did not start, or ended while the block ran, which is cancelled then.
        """
        for text in (*config.host_maddrs, *config.announce_maddrs):
            parse_host_addr(text)
        identity = Identity.load(config.identity_path)
        try:
            async with running_daemon(config, identity) as daemon:
                identity.forget_file()
                peer = cls(daemon, identity, config)
                peer.addrs = await daemon.addrs() if config.is_listening or config.announce_maddrs else ()
                async with _owning(peer):
                    yield peer
        finally:
            identity.close()

    async def serve(self, handler: Handler) -> None:
        """Accept channels from now on; each gets the receiver that `handler` returns for it.

        Raises:
            DaemonDied: The daemon refuses to pass streams on.
        """
        self._handler = handler
        if self._server is not None:
            return
        path = f"{self._daemon.folder}/streams.sock"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Stream(self._on_prelude), path, backlog=BACKLOG)
        register = p2pd_pb2.StreamHandlerRequest(
            addr=DaemonMultiaddr(f"/unix{path}").to_bytes(), proto=[STREAM_PROTOCOL], balanced=False
        )
        request = p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_HANDLER, streamHandler=register)
        response = await self._daemon.request(request)
        if response.type == p2pd_pb2.Response.ERROR:
            raise DaemonDied(f"the libp2p daemon passes no streams on: {response.error.msg}")
        if self.config.use_direct and self.addrs:
            await self._serve_directly()

    async def dial(self, addr: Multiaddr, *, timeout: float | None = None) -> PeerId:
        """Connect to the peer at `addr`, within `timeout` (None: `Timeouts.dial`) seconds; return its id.

        Raises:
            PeerUnreachable: Names the address and the reason: refused, timed out, wrong peer id.
            AddressInvalid: The address does not end in /p2p/ID.
        """
        peer = peer_id_of(addr)
        limit = self.config.timeouts.dial if timeout is None else timeout
        await dialling.connect(self._daemon, peer, (addr,), timeout=limit)
        return peer

    async def channel(self, peer: PeerId, addrs: Sequence[str] = ()) -> Channel:
        """Return the channel that we dialled to `peer`, or dial it; see `Dialler.channel`."""
        return await self._dialler.channel(peer, addrs)

    async def greet(self, peer: PeerId) -> None:
        """See whether `peer`, to which libp2p is connected, is one of ours.

        Raises:
            WrongSwarmKey: It is of another swarm.
            VersionMismatch, PeerUnreachable: As `channel`.
        """
        async with self._dialler.brief_channel(peer):
            pass

    async def ask_dial_back(self, peer: PeerId, addrs: Sequence[str]) -> DialedBack:
        """Let `peer` try to reach us at `addrs` on connections of its own; see `DialBacks.ask`."""
        return await self._dial_backs.ask(self._dialler.brief_channel(peer), addrs)

    async def reserve(self, relay: PeerId) -> Reservation:
        """Have `relay` pass on connections for us; see `swarm.network.circuits.reserve`."""
        return await circuits.reserve(self._daemon, relay, self.peer_id, timeout=self.config.timeouts.ask)

    async def meet(self, peer: PeerId, addrs: Sequence[str]) -> None:
        """Be connected to `peer` without a relay between, if it can be dialled at one of `addrs`.

        Raises:
            PeerUnreachable: It cannot.
        """
        plain = [addr for addr in map(parse_addr, addrs) if tcp_endpoint(addr) is not None and peer_id_of(addr) == peer]
        if plain:
            await dialling.connect_past_relays(self._daemon, peer, plain, timeout=self.config.timeouts.dial)

    async def refresh_addrs(self) -> bool:
        """Find out anew where we listen, for networks come and go; whether that has changed."""
        addrs = await self._daemon.addrs()
        if not addrs or set(addrs) == set(self.addrs):
            return False
        self.addrs = addrs
        if self._direct_port is not None:
            self.direct_addrs = self._own_direct_addrs(self._direct_port)
        return True

    @property
    def failure(self) -> DaemonDied | None:
        """Why we cannot reach anybody any more; None while our daemon lives."""
        if not self._died.done() or self._died.cancelled():
            return None
        error = self._died.exception()
        assert isinstance(error, DaemonDied)
        return error

    async def wait_failed(self) -> None:
        """Wait until our daemon ends, which it should not.

        Raises:
            DaemonDied: It did.
        """
        await asyncio.shield(self._died)

    async def _serve_directly(self) -> None:
        endpoints = [tcp_endpoint(parse_host_addr(text)) for text in self.config.host_maddrs]
        self._direct = DirectListener(self.identity, self._on_inbound, self.config.timeouts)
        self._direct_port = await self._direct.open([endpoint for endpoint in endpoints if endpoint is not None])
        self.direct_addrs = self._own_direct_addrs(self._direct_port)

    def _own_direct_addrs(self, port: int) -> tuple[Multiaddr, ...]:
        told = [parse_host_addr(text) for text in self.config.announce_maddrs]
        told = [Multiaddr(f"{addr}/p2p/{self.peer_id}") for addr in told if direct_endpoint(addr) is not None]
        return tuple(told) or direct_addrs(self.addrs, port, self.peer_id)

    def _on_prelude(self, stream: Stream, prelude: bytes) -> None:
        told = p2pd_pb2.StreamInfo.FromString(prelude)
        stream.remote_host = host_of(Multiaddr(told.addr))
        self._on_inbound(stream, PeerId(PeerID(told.peer).to_base58()))

    def _on_inbound(self, stream: Stream, remote: PeerId) -> None:
        inbound, config = self._channels.inbound(), self.config
        if inbound.total() >= config.max_channels or inbound[remote] >= config.max_channels_per_peer:
            logger.warning("peer %s: channel refused, it has %d of %d", remote, inbound[remote], inbound.total())
            stream.abort()
            return
        self._add(stream, remote, is_dialled=False, on_ready=self._on_inbound_ready, on_gone=lambda _: None)

    def _on_inbound_ready(self, channel: Channel) -> None:
        assert self._handler is not None
        channel.receiver = self._handler(channel)

    def _add(
        self,
        stream: Stream,
        remote: PeerId,
        *,
        is_dialled: bool,
        on_ready: Callable[[Channel], None],
        on_gone: Callable[[Channel], None],
    ) -> None:
        def forget(channel: Channel) -> None:
            self._channels.ended(channel)
            on_gone(channel)

        greeting = Greeting(self.config.swarm_key, self.peer_id, remote, is_dialled=is_dialled)
        channel = Channel(
            stream,
            remote,
            is_dialled=is_dialled,
            greeting=greeting,
            timeouts=self.config.timeouts,
            on_ready=on_ready,
            on_gone=forget,
            on_dial_back=self._dial_backs.received,
        )
        self._channels.add(channel)
        channel.start()

    async def _watch(self) -> None:
        status = await self._daemon.wait()
        error = DaemonDied(f"our libp2p daemon ended with status {status}; start the process again")
        if not self._died.done():
            self._died.set_exception(error)
            self._died.exception()
        raise error

    async def _beat(self) -> None:
        await self._channels.beat(self.config.timeouts.heartbeat_interval / 2)

    async def _close(self) -> None:
        for listener in (self._server, self._direct):
            if listener is not None:
                listener.close()
        await self._dial_backs.close()
        await self._dialler.close()
        await asyncio.gather(*(channel.close() for channel in self._channels))
        if not self._died.done():
            self._died.cancel()


@asynccontextmanager
async def _owning(peer: Peer) -> AsyncIterator[None]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(peer._watch()), group.create_task(peer._beat())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await peer._close()
    except BaseExceptionGroup as error:
        # One fault alone, ours or the block's, is told as itself.
        if len(error.exceptions) == 1:
            raise error.exceptions[0] from None
        raise
