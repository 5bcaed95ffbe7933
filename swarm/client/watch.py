"""Watching steps of a session that somebody else sends: a hop that sends again what it has sent before."""

from __future__ import annotations

import asyncio
import time

from swarm.client.legs import Leg
from swarm.errors import SwarmError


class ReplayFailed(Exception):
    """A hop says no to a step of a replay. Never leaves the client's rooms.

    Attributes:
        leg: Who says so.
        error: What he says.
    """

    def __init__(self, leg: Leg, error: SwarmError) -> None:
        super().__init__(str(error))
        self.leg = leg
        self.error = error


class Watch:
    """Waits for the last of the steps numbered `first` to `last`; lives on the loop.

    Attributes:
        progress_at: Monotonic time of the latest sign of it.
    """

    def __init__(self, first: int, last: int) -> None:
        self._first = first
        self._last = last
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.progress_at = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is awaited."""
        return self._over.done()

    def took(self, step: int) -> bool:
        """Take the result of a step; False if it is none of ours."""
        if not self._first <= step <= self._last:
            return False
        self.progress_at = time.monotonic()
        if step == self._last and not self._over.done():
            self._over.set_result(None)
        return True

    def failed(self, step: int, leg: Leg, error: SwarmError) -> bool:
        """Take an error about a step, or about the whole session; False if it is about another step."""
        if self._over.done() or (step and not self._first <= step <= self._last):
            return False
        self._over.set_exception(ReplayFailed(leg, error))
        return True

    def fail(self, error: SwarmError) -> None:
        """A hop is lost: the last step may not come."""
        if not self._over.done():
            self._over.set_exception(error)

    async def wait(self, timeout: float) -> None:
        """Wait until all have come through.

        Raises:
            ReplayFailed: A hop says no.
            SwarmError: What a hop was lost with.
            TimeoutError: Nothing came for `timeout` seconds.
        """
        while True:
            rest = self.progress_at + timeout - time.monotonic()
            if rest <= 0:
                raise TimeoutError
            done, _ = await asyncio.wait((self._over,), timeout=rest)
            if done:
                return self._over.result()
