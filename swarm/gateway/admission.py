"""Who may write now: so many texts at once, so many more that wait, and nobody beyond."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from swarm.gateway.faults import Refused

PATIENCE = 120.0
"""Seconds that a request may wait for the turn of its first text; the others may stand behind that one for longer."""

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
    def enter(self, count: int) -> Iterator[Party]:
        """Let a request of so many texts in; yields what gives them their turns.

        Raises:
            Refused: Too many wait already, or it has more than could ever be in here.
        """
        if count > self._most:
            text = f"a request of {count} texts: {self._most} are the most that are written or wait here at once"
            raise Refused(text, param="n", fault="invalid_value")
        if self.num_inside + count > self._most:
            raise _full(f"{self.num_inside} texts are written or wait, {self._most} are the most: try again soon")
        self.num_inside += count
        try:
            yield Party(self)
        finally:
            self.num_inside -= count

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until one more text may be written, and write it in the block."""
        await self._turns.acquire()
        self.num_running += 1
        try:
            yield
        finally:
            self.num_running -= 1
            self._turns.release()


class Party:
    """The texts of one request."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._has_begun = False
        self._waits = set[asyncio.Timeout]()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until one more of them may be written, and write it in the block.

        Raises:
            Refused: None of them had its turn for too long.
        """
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(None if self._has_begun else PATIENCE) as wait:
                    self._waits.add(wait)
                    await held.enter_async_context(self._admission.turn())
            except TimeoutError:
                raise _full(f"no turn within {PATIENCE:.0f} s: try again later") from None
            finally:
                self._waits.discard(wait)
            self._begin()
            yield

    def _begin(self) -> None:
        """Let the others wait for as long as it takes: they stand in line behind a text that is written."""
        self._has_begun = True
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(None)


def _full(text: str) -> Refused:
    return Refused(text, status=503, kind="server_error", fault="overloaded", retry_after=RETRY_AFTER)
