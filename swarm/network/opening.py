"""Opening the stream of a channel that we dial, directly or through the daemon, and what may come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from hivemind.p2p import PeerID
from hivemind.proto import p2pd_pb2

from swarm.errors import DaemonDied, HopLost, HopTimeout, PeerUnreachable, SwarmError
from swarm.network import direct
from swarm.network.addresses import Endpoint
from swarm.network.channel import Channel
from swarm.network.config import Timeouts
from swarm.network.daemon import Daemon
from swarm.network.dialling import reason
from swarm.network.identity import Identity
from swarm.network.stream import Stream
from swarm.types import PeerId
from swarm.wire import Message

STREAM_PROTOCOL = "/swarm/channel/1"
"""What libp2p calls our streams; the versions within are negotiated by Hello."""


class Opening:
    """Owns a stream until it is connected; then `adopt` makes a channel of it. Good for one attempt."""

    def __init__(self, peer: PeerId, adopt: Callable[[Stream], None]) -> None:
        self._peer = peer
        self._adopt = adopt
        self.ready: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    async def over_daemon(self, daemon: Daemon, *, timeout: float) -> Channel:
        """Return the channel once both sides said Hello.

        Raises:
            PeerUnreachable: The peer takes no stream of ours, or says nothing within `timeout` seconds.
            VersionMismatch, WrongSwarmKey: It is none of ours.
            DaemonDied: Our daemon is gone.
        """

        async def connect() -> Stream:
            try:
                _, stream = await asyncio.get_running_loop().create_unix_connection(
                    lambda: Stream(self._on_prelude, owner=self), daemon.control_path
                )
            except OSError as error:
                raise DaemonDied(f"the libp2p daemon opens no stream ({error}); start the process again") from error
            stream.send_prelude(request.SerializeToString())
            return stream

        opened = p2pd_pb2.StreamOpenRequest(peer=PeerID.from_base58(self._peer).to_bytes(), proto=[STREAM_PROTOCOL])
        request = p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=opened)
        return await self._run(connect, timeout)

    async def over_tls(self, identity: Identity, endpoints: Sequence[Endpoint], timeouts: Timeouts) -> Channel:
        """As `over_daemon`, over a direct connection.

        Raises:
            PeerUnreachable: It is at none of `endpoints`, or says nothing within `timeouts.direct` seconds.
            VersionMismatch: As `over_daemon`.
        """

        async def connect() -> Stream:
            stream = await direct.connect(identity, self._peer, endpoints, timeouts)
            self._adopt(stream)
            return stream

        return await self._run(connect, timeouts.direct)

    async def _run(self, connect: Callable[[], Awaitable[Stream]], timeout: float) -> Channel:
        stream: Stream | None = None
        is_ready = False
        try:
            async with asyncio.timeout(timeout):
                stream = await connect()
                channel = await self.ready
                is_ready = True
                return channel
        except TimeoutError as error:
            raise PeerUnreachable(f"peer {self._peer}: no Hello within {timeout:g} s") from error
        finally:
            if stream is not None and not is_ready:
                stream.abort()

    def succeed(self, channel: Channel) -> None:
        """Both sides said Hello."""
        if not self.ready.done():
            self.ready.set_result(channel)

    def fail(self, why: Exception | None) -> None:
        """The stream ended; nothing happens if it had been ready before."""
        if self.ready.done():
            return
        if isinstance(why, SwarmError) and not isinstance(why, HopLost | HopTimeout):
            self.ready.set_exception(why)
        else:
            text = f"peer {self._peer}: {why or 'it closed the stream before its Hello'}"
            self.ready.set_exception(PeerUnreachable(text))

    def on_message(self, message: Message, body: bytearray) -> None:
        """Cannot happen: frames follow the prelude, at which the channel takes over."""
        raise HopLost("a frame before the daemon's answer")

    def on_broken(self, error: Exception) -> None:
        """The daemon's answer cannot be read."""
        self.fail(error)

    def on_lost(self, error: Exception | None) -> None:
        """The daemon hung up."""
        self.fail(error)

    def _on_prelude(self, stream: Stream, answer: bytes) -> None:
        response = p2pd_pb2.Response.FromString(answer)
        if response.type == p2pd_pb2.Response.ERROR:
            self.fail(PeerUnreachable(f"peer {self._peer}: {reason(response.error.msg)}"))
            stream.abort()
        elif self.ready.done():
            stream.abort()
        else:
            self._adopt(stream)
