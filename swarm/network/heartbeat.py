"""The beat of all channels: each shows that it lives, and notices when the other side does not."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from swarm.network.channel import Channel


async def beat(channels: Collection[Channel], interval: float) -> None:
    """Beat each of `channels`, which come and go, twice per `interval` seconds, for ever."""
    loop = asyncio.get_running_loop()
    pause = interval / 2
    last = loop.time()
    while True:
        await asyncio.sleep(pause)
        now = loop.time()
        late = now - last - 2 * pause
        last = now
        for channel in tuple(channels):
            if late > 0:  # we stood still (a long import, a suspended machine): silence is our fault
                channel.forgive(late)
            else:
                channel.beat(now)
