"""A server's record from a process whose clock is wrong; prints its peer id once stored, then what it sees.

Usage: python -m tests.directory.skewed_server SECONDS ADDR [HEXADECIMAL SWARM KEY]
"""

from __future__ import annotations

import asyncio
import sys
import time

from multiaddr import Multiaddr

from swarm.directory.swarm_time import SWARM_TIME
from swarm.swarm_key import SwarmKey
from tests.directory.members import member


class WrongClock:
    """A clock that is some seconds off."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def monotonic(self) -> float:
        return time.monotonic()

    def unix(self) -> float:
        return time.time() + self._seconds


async def main(seconds: float, addr: str, key: str = "") -> None:
    SWARM_TIME._clock = WrongClock(seconds)
    swarm_key = SwarmKey(bytes.fromhex(key)) if key else None
    async with member(Multiaddr(addr), swarm_key=swarm_key) as server:
        stored = await server.announce()
        print(server.peer.peer_id, stored, " ".join(sorted(await server.sees())), flush=True)
        await server.peer.wait_failed()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), *sys.argv[2:]))
