"""Time as a parameter: what decides with time takes a `Clock`, so that tests can turn it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two times that must not be mixed: durations and dates."""

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        ...

    def unix(self) -> float:
        """Seconds since 1970, as other machines count them."""
        ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        return time.monotonic()

    def unix(self) -> float:
        """Seconds since 1970, as other machines count them."""
        return time.time()
