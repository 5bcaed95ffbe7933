"""Keeping our record alive: refreshed before it expires, at once when it changes, withdrawn at the end."""

from __future__ import annotations

import asyncio
import time

from swarm.directory.directory import Directory
from swarm.log import get_logger
from swarm.types import ServerRecord

_RETRY_FIRST = 1.0
"""Seconds until a failed store is tried again; then twice as long each time, up to a third of the ttl."""

_REST = 0.2
"""Seconds between two stores at least, however often the record changes."""

logger = get_logger(__name__)


class Announcer:
    """Announces one record for as long as `run` runs.

    Args:
        ttl: Seconds that a record lives; refreshed at a third of that, so that two refreshes may fail.

    Attributes:
        is_stored: Whether the directory took the latest record.
        stored_at: Monotonic time at which the directory last took one; None before.
    """

    def __init__(self, directory: Directory, *, ttl: float = 60.0) -> None:
        self._directory = directory
        self._ttl = ttl
        self._record: ServerRecord | None = None
        self._number = 0
        self._has_news = asyncio.Event()
        self.stored_at: float | None = None
        self._latest_stored: ServerRecord | None = None
        self._number_stored = 0
        self._stored = asyncio.Event()  # of the next store: each one wakes those who wait, and makes another
        directory.on_joined(self._has_news.set)

    @property
    def is_stored(self) -> bool:
        """Whether the directory took the latest record."""
        return self._record is not None and self._latest_stored == self._record

    def update(self, record: ServerRecord) -> None:
        """Announce `record` from now on; at once if it differs from the one before."""
        if record != self._record:
            self._record = record
            self._number += 1
            self._has_news.set()

    async def wait_stored(self) -> None:
        """Wait until the directory took the record of now, or a later one; give it a timeout of your own."""
        wanted = max(1, self._number)
        while self._number_stored < wanted:
            await self._stored.wait()

    async def run(self) -> None:
        """Announce until cancelled, then say goodbye. A failed store is tried again and never raises."""
        pause = _RETRY_FIRST
        try:
            while True:
                is_stored = await self._announce()
                pause = _RETRY_FIRST if is_stored else min(2 * pause, self._ttl / 3)
                await self._wait_for_news(self._ttl / 3 if is_stored or self._record is None else pause)
                await asyncio.sleep(_REST)
        finally:
            if self._latest_stored is not None:
                await self._directory.withdraw(self._latest_stored)

    async def _announce(self) -> bool:
        self._has_news.clear()
        record, number = self._record, self._number
        if record is None:
            return False
        try:
            is_stored = await self._directory.announce(record, ttl=self._ttl)
        except Exception as error:  # a periodic task: the server goes on, the next round may do better
            logger.warning("announcing %s failed: %s: %s", record.span, type(error).__name__, error)
            return False
        if is_stored:
            self._latest_stored, self._number_stored = record, number
            self.stored_at = time.monotonic()
            self._stored.set()
            self._stored = asyncio.Event()
        else:
            logger.info("nobody stored the record of %s; trying again", record.span)
        return is_stored

    async def _wait_for_news(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._has_news.wait()
        except TimeoutError:
            pass
