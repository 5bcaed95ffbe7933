"""A peer in a process of its own that sends every message back; prints its address first.

Usage: python -m tests.network.echo_peer [KEY_FILE]
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from swarm.network import Channel, NetworkConfig, Peer
from swarm.wire import Message


class Echo:
    """Sends back what it receives, on the same channel."""

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        channel.send(message, body)

    def closed(self, channel: Channel, reason: Exception | None) -> None:
        pass


async def serve(key: Path | None) -> None:
    async with Peer.open(NetworkConfig(identity_path=key)) as peer:
        await peer.serve(lambda channel: Echo())
        print(peer.addrs[0], flush=True)
        await peer.wait_failed()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
