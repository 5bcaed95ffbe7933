"""How often something may be tried, and for how long; pure but for the clock."""

from __future__ import annotations

import time

MAX_TRIES = 24
"""Without any result in between: enough for several replacements that die one after another."""


class Tries:
    """Counts since the last progress."""

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0

    def progressed(self) -> None:
        """Begin anew."""
        self._count = 0

    def again(self, timeout: float) -> bool:
        """Count one more; whether it may be: not too many yet, nor too long since the first.

        Args:
            timeout: Seconds for all of them.
        """
        now = time.monotonic()
        if self._count == 0:
            self._since = now
        self._count += 1
        return self._count <= MAX_TRIES and now < self._since + timeout

    @property
    def count(self) -> int:
        """Tries since the last progress."""
        return self._count
