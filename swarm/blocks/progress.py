"""How far something long is: a bar on a terminal, else a line in the log for each tenth."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from swarm.log import bar_on_last_line, get_logger

LINE_INTERVAL = 2.0
"""Seconds between two lines at least, and before the first: what is over sooner needs none."""

logger = get_logger(__name__)


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how far `what` is until the block is left; yields what is to be called with how much is done by now.

    Args:
        what: Such as "loading".
        total: How much there is to do.
        unit: Of what; "B" are bytes, told with a prefix.
    """
    if sys.stderr.isatty():
        with _bar(what, total, unit) as told:
            yield told
    else:
        yield Lines(what, total, unit)


@contextmanager
def _bar(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    counts = unit == "B"
    shown = tqdm(total=total, desc=what, unit=unit, unit_scale=counts, leave=False, file=sys.stderr, dynamic_ncols=True)
    with bar_on_last_line(), shown as bar:

        def told(done: int) -> None:
            bar.update(done - bar.n)

        yield told


class Lines:
    """Writes to the log how far something is.

    Args:
        clock: Seconds; for tests.
    """

    def __init__(self, what: str, total: int, unit: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._total = max(1, total)
        self._unit = unit
        self._clock = clock
        self._told_at = clock()
        self._tenths = 0

    def __call__(self, done: int) -> None:
        """Note how much is done by now."""
        tenths, now = 10 * done // self._total, self._clock()
        if tenths > self._tenths and now - self._told_at >= LINE_INTERVAL:
            self._tenths, self._told_at = tenths, now
            amount = f"{self._told(done)} of {self._told(self._total)}"
            logger.info("%s: %d %% (%s)", self._what, 100 * done // self._total, amount)

    def _told(self, count: int) -> str:
        return f"{count / 1e6:,.0f} MB" if self._unit == "B" else f"{count:,} {self._unit}s"
