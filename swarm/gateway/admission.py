"""Who may write now: so many texts at once, so many more that wait, and nobody beyond."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from swarm.gateway.faults import Refused

PATIENCE = 120.0
"""Seconds that a text may wait for its turn."""

RETRY_AFTER = 2.0
"""Seconds after which one who was sent away may try again."""


class Admission:
    """Turns for texts, first come, first served."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._turns = asyncio.Semaphore(max_running)
        self._most = max_running + max_waiting
        self.num_inside = 0
        self.num_running = 0

    @property
    def num_waiting(self) -> int:
        """Texts that were let in and are not written yet, or not any more."""
        return self.num_inside - self.num_running

    @contextmanager
    def enter(self, count: int) -> Iterator[None]:
        """Let a request of so many texts in.

        Raises:
            Refused: Too many wait already.
        """
        if self.num_inside + count > self._most:
            raise _full(f"{self.num_inside} texts are written or wait, {self._most} are the most: try again soon")
        self.num_inside += count
        try:
            yield
        finally:
            self.num_inside -= count

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until one more text may be written, and write it in the block.

        Raises:
            Refused: It took too long.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self._turns.acquire()
        except TimeoutError:
            raise _full(f"no turn within {PATIENCE:.0f} s: try again later") from None
        self.num_running += 1
        try:
            yield
        finally:
            self.num_running -= 1
            self._turns.release()


def _full(text: str) -> Refused:
    return Refused(text, status=503, kind="server_error", fault="overloaded", retry_after=RETRY_AFTER)
