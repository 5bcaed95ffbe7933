"""A peer in a process of its own that sends every message back; prints its address first.

Usage: python -m tests.network.echo_peer libp2p|direct
"""

from __future__ import annotations

import asyncio
import sys

from swarm.network import Channel, NetworkConfig, Peer
from swarm.wire import Message


class Echo:
    """Sends back what it receives, on the same channel."""

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        channel.send(message, body)

    def closed(self, channel: Channel, reason: Exception | None) -> None:
        pass


async def serve(kind: str) -> None:
    async with Peer.open(NetworkConfig()) as peer:
        await peer.serve(lambda channel: Echo())
        print((peer.direct_addrs if kind == "direct" else peer.addrs)[0], flush=True)
        await peer.wait_failed()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
