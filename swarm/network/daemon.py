"""The libp2p daemon, our child process, and the control socket on which it takes requests.

hivemind speaks unary calls through it, which the directory needs. Streams and dials are ours:
hivemind's listener loses streams in bursts, its calls leave sockets open when cancelled, and nearly
all of them wait for ever when the daemon dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from hivemind.p2p import PeerID
from hivemind.proto import p2pd_pb2
from multiaddr import Multiaddr

from swarm.errors import DaemonDied, PeerUnreachable
from swarm.network.config import Timeouts
from swarm.network.frame_reader import with_length
from swarm.types import PeerId

_MAX_RESPONSE_BYTES = 1 << 20
"""The daemon is ours and trusted; its longest answer lists some hundred peers."""


@dataclass(frozen=True, slots=True)
class DaemonStream:
    """A stream through the daemon, on which each message stands behind its length.

    Attributes:
        remote_addr: Where the connection under it leads, without /p2p/ID.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    remote_addr: Multiaddr

    def send(self, message: bytes) -> None:
        """Send one message."""
        self.writer.write(with_length(message))

    async def receive(self) -> bytes:
        """Return the next message.

        Raises:
            PeerUnreachable: The other side ended the stream.
        """
        try:
            return await _read_packed(self.reader)
        except asyncio.IncompleteReadError as error:
            raise PeerUnreachable("the peer ended the stream") from error


class Daemon:
    """A running libp2p daemon.

    Attributes:
        process: The child process.
        p2p: hivemind's wrapper of it.
        folder: Where its unix sockets are; nobody else can enter, and it goes with the daemon.
        control_path: The socket for requests.
    """

    def __init__(self, process: asyncio.subprocess.Process, p2p: Any, folder: str, timeouts: Timeouts) -> None:
        self.process = process
        self.p2p = p2p
        self.folder = folder
        self.control_path = f"{folder}/control.sock"
        self._timeouts = timeouts

    async def wait(self) -> int:
        """Wait until the process ends; return its exit status."""
        return await self.process.wait()

    async def request(self, request: Any, *, timeout: float | None = None) -> Any:
        """Send one request on a connection of its own and return the response, be it an error.

        Raises:
            DaemonDied: Nobody listens, or it hung up.
            TimeoutError: No answer within `timeout` (None: `Timeouts.control`) seconds.
        """
        async with asyncio.timeout(self._timeouts.control if timeout is None else timeout):
            try:
                reader, writer = await asyncio.open_unix_connection(self.control_path)
                try:
                    writer.write(pack(request))
                    response = p2pd_pb2.Response()
                    response.ParseFromString(await _read_packed(reader))
                    return response
                finally:
                    writer.close()
            except (OSError, asyncio.IncompleteReadError) as error:
                raise DaemonDied(f"the libp2p daemon does not answer ({error}); start the process again") from error

    @asynccontextmanager
    async def stream(self, peer: PeerId, protocol: str) -> AsyncIterator[DaemonStream]:
        """Open a stream for a few messages of libp2p's own; leaving the block closes it. Give it a timeout of your own.

        Raises:
            PeerUnreachable: The peer takes no stream of this protocol.
            DaemonDied: Nobody listens, or it hung up.
        """
        opened = p2pd_pb2.StreamOpenRequest(peer=PeerID.from_base58(peer).to_bytes(), proto=[protocol])
        request = p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=opened)
        try:
            reader, writer = await asyncio.open_unix_connection(self.control_path)
            try:
                writer.write(pack(request))
                response = p2pd_pb2.Response()
                response.ParseFromString(await _read_packed(reader))
                if response.type == p2pd_pb2.Response.ERROR:
                    raise PeerUnreachable(f"peer {peer}: no stream of {protocol}: {response.error.msg[-160:]}")
                yield DaemonStream(reader, writer, Multiaddr(response.streamInfo.addr))
            finally:
                writer.close()
        except (OSError, asyncio.IncompleteReadError) as error:
            raise DaemonDied(f"the libp2p daemon hung up ({error}); start the process again") from error

    async def addrs(self) -> tuple[Multiaddr, ...]:
        """Return where others can dial us, each ending in /p2p/ID."""
        response = await self.request(p2pd_pb2.Request(type=p2pd_pb2.Request.IDENTIFY))
        found = [f"{Multiaddr(packed)}/p2p/{self.p2p.peer_id}" for packed in response.identify.addrs]
        return tuple(Multiaddr(text) for text in dict.fromkeys(found))


def pack(message: Any) -> bytes:
    """Return a protobuf message behind its length, as the daemon's sockets want it."""
    return with_length(message.SerializeToString())


async def _read_packed(reader: asyncio.StreamReader) -> bytes:
    length = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if length > _MAX_RESPONSE_BYTES:
        raise DaemonDied(f"the libp2p daemon answers with {length} bytes; at most {_MAX_RESPONSE_BYTES} make sense")
    return await reader.readexactly(length)
