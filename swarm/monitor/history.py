"""History in an SQLite file: how many servers, how many blocks covered, what throughput, over days.

Each sample goes into two slots, a fine one of `FINE` seconds and a coarse one of `COARSE`, which hold sums and minima
of all samples in them; fine slots are kept for `FINE_KEPT` seconds, coarse ones as long as the owner wants. A long
range is read from coarse slots, several of them joined. SQLite is called on one thread of its own.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from swarm.errors import UsageError
from swarm.log import get_logger

FINE, COARSE = 10, 300
"""Seconds of a slot."""

FINE_KEPT = 86400
"""Seconds: a day in slots of 10 s is 8,640 rows a model."""

PRUNE_EVERY = 600.0
"""Seconds between two rounds of forgetting what is too old."""

MAX_POINTS = 1000
"""Of one answer: more than a screen has pixels for."""

LOCK_TIMEOUT = 2.0
"""Seconds to wait for another process that writes to the file."""

_APPLICATION = 0x73776D31
"""SQLite's application id of our files: "swm1"."""

_SCHEMA = """
create table if not exists slots (
    step integer not null, model text not null, at integer not null,
    n integer not null, servers integer not null, blocks integer not null, covered integer not null,
    per_s real not null, per_s_min real not null,
    primary key (step, model, at)
) without rowid
"""

_NOTE = """
insert into slots values (?, ?, ?, 1, ?, ?, ?, ?, ?)
on conflict do update set n = n + 1, servers = servers + excluded.servers, blocks = excluded.blocks,
    covered = min(covered, excluded.covered), per_s = per_s + excluded.per_s,
    per_s_min = min(per_s_min, excluded.per_s_min)
"""

_READ = """
select at / :bucket * :bucket, 1.0 * sum(servers) / sum(n), max(blocks), min(covered), sum(per_s) / sum(n),
    min(per_s_min)
from slots where step = :step and model = :model and at >= :since and at <= :now group by 1 order by 1
"""

T = TypeVar("T")
logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """One model at one moment.

    Attributes:
        model: Its name.
        servers: How many it has.
        blocks: Of the whole model.
        covered: Of them, those that somebody serves.
        per_s: Tokens per second through the whole model.
    """

    model: str
    servers: int
    blocks: int
    covered: int
    per_s: float


@dataclass(frozen=True, slots=True)
class Point:
    """A model during one stretch of time that begins at Unix time `at`: means, and the worst of what may be worst."""

    at: int
    servers: float
    blocks: int
    covered: int
    per_s: float
    per_s_min: float


@dataclass(frozen=True, slots=True)
class Series:
    """Points of `step` seconds each; where nobody watched there are none."""

    step: int
    points: tuple[Point, ...]


class History:
    """An open history file. Made by `History.open`.

    Attributes:
        problem: Why the file could not be written or read the last time; empty if it could.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, thread: ThreadPoolExecutor, kept: float) -> None:
        self._path = path
        self._connection = connection
        self._thread = thread
        self._kept = kept
        self._pruned_at = -math.inf
        self.problem = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path, *, days: float) -> AsyncIterator[History]:
        """Open or make a history file, until the block is left; what is older than `days` is forgotten.

        Raises:
            UsageError: The file is locked, damaged, of another program, or cannot be made.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="history")
        loop = asyncio.get_running_loop()
        try:
            connection = await loop.run_in_executor(thread, _connected, path)
            try:
                yield cls(path, connection, thread, days * 86400)
            finally:
                await loop.run_in_executor(thread, connection.close)
        finally:
            thread.shutdown(wait=False)

    async def note(self, samples: Sequence[Sample], *, now: float) -> None:
        """Write samples of the moment `now`, a Unix time; a failure is logged, and told in `problem`."""
        rows = [
            (step, each.model, int(now // step * step), each.servers, each.blocks, each.covered, each.per_s, each.per_s)
            for each in samples
            for step in (FINE, COARSE)
        ]

        def write() -> None:
            with self._connection:
                self._connection.executemany(_NOTE, rows)
                if now - self._pruned_at >= PRUNE_EVERY:
                    forget = "delete from slots where step = ? and at < ?"
                    self._connection.execute(forget, (FINE, now - min(FINE_KEPT, self._kept)))
                    self._connection.execute(forget, (COARSE, now - self._kept))
                    self._pruned_at = now

        await self._call(write, None)

    async def read(self, model: str, *, seconds: float, points: int, now: float) -> Series:
        """Return the last `seconds` before `now` in about `points` points; none if the file cannot be read."""
        step = FINE if seconds <= FINE_KEPT else COARSE
        bucket = max(1, math.ceil(seconds / points / step)) * step
        values = {"bucket": bucket, "step": step, "model": model, "since": now - seconds, "now": now}

        def query() -> tuple[Point, ...]:
            return tuple(Point(*row) for row in self._connection.execute(_READ, values))

        return Series(bucket, await self._call(query, ()))

    async def _call(self, function: Callable[[], T], otherwise: T) -> T:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, function)
        except sqlite3.Error as error:
            if (text := f"{self._path}: {_reason(error)}") != self.problem:
                logger.warning("history %s", text)
            self.problem = text
            return otherwise
        self.problem = ""
        return found


def _connected(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One thread uses it, but the garbage collector may close it on another.
        connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise _refused(path, error) from error
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise _refused(path, error) from error
    except UsageError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    with closing(connection.execute("pragma application_id")) as rows:
        owner = rows.fetchone()[0]
    tables = connection.execute("select count(*) from sqlite_master").fetchone()[0]
    if tables and owner != _APPLICATION:
        raise UsageError(f"--history {path}: a database of another program; give another file")
    if connection.execute("pragma quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("it is damaged")
    connection.execute("pragma journal_mode = wal")  # readers and a second monitor do not lock each other out
    connection.execute("pragma synchronous = normal")
    connection.execute(f"pragma application_id = {_APPLICATION}")
    with connection:
        connection.execute(_SCHEMA)


def _refused(path: Path, error: Exception) -> UsageError:
    remedy = "wait for the other process" if "locked" in str(error) else "move it away, or give another file"
    return UsageError(f"--history {path}: {_reason(error)}; {remedy}")


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    if "locked" in text:
        return "locked by another process"
    if "not a database" in text or "malformed" in text:
        return f"damaged, or no SQLite file ({text})"
    return text
