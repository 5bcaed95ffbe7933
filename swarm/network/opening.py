"""Opening the stream of a channel that we dial: one request to the daemon, and what may come of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hivemind.p2p import PeerID
from hivemind.proto import p2pd_pb2

from swarm.errors import DaemonDied, HopLost, HopTimeout, PeerUnreachable, SwarmError
from swarm.network.channel import Channel
from swarm.network.daemon import Daemon, pack
from swarm.network.dialling import reason
from swarm.network.stream import Stream
from swarm.types import PeerId
from swarm.wire import Message

STREAM_PROTOCOL = "/swarm/channel/1"
"""What libp2p calls our streams; the versions within are negotiated by Hello."""


class Opening:
    """Owns a stream until the daemon has connected it; then `adopt` makes a channel of it."""

    def __init__(self, peer: PeerId, adopt: Callable[[Stream], None]) -> None:
        self._peer = peer
        self._adopt = adopt
        self.ready: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    async def run(self, daemon: Daemon, *, timeout: float) -> Channel:
        """Return the channel once both sides said Hello.

        Raises:
            PeerUnreachable: The peer takes no stream of ours, or says nothing within `timeout` seconds.
            VersionMismatch: It speaks no version that we do.
            DaemonDied: Our daemon is gone.
        """
        peer = PeerID.from_base58(self._peer).to_bytes()
        request = p2pd_pb2.StreamOpenRequest(peer=peer, proto=[STREAM_PROTOCOL])
        packed = pack(p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=request))
        stream: Stream | None = None
        is_ready = False
        try:
            async with asyncio.timeout(timeout):
                _, stream = await asyncio.get_running_loop().create_unix_connection(
                    lambda: Stream(self._on_prelude, request=packed, owner=self), daemon.control_path
                )
                channel = await self.ready
                is_ready = True
                return channel
        except TimeoutError as error:
            raise PeerUnreachable(f"peer {self._peer}: no Hello within {timeout:g} s") from error
        except OSError as error:
            raise DaemonDied(f"the libp2p daemon opens no stream ({error}); start the process again") from error
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
