"""The history file: restarts, retention, long ranges, and files that cannot be used."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from swarm.errors import UsageError
from swarm.monitor.history import COARSE, FINE, FINE_KEPT, History, Sample

NOW = 1_800_000_000.0
HOUR = 3600.0


def sample(covered: int = 30, per_s: float = 10.0) -> Sample:
    return Sample("m", 3, 30, covered, per_s)


async def test_what_was_noted_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "history.sqlite"
    async with History.open(path, days=1) as history:
        await history.note([sample(per_s=10.0)], now=NOW - 60)
        await history.note([sample(per_s=20.0)], now=NOW - 59)
        await history.note([sample(covered=12, per_s=0.0)], now=NOW - 20)
    async with History.open(path, days=1) as history:
        series = await history.read("m", seconds=HOUR, points=360, now=NOW)
        assert series.step == FINE
        assert [(point.at - NOW, point.covered, point.per_s) for point in series.points] == [
            (-60, 30, 15),
            (-20, 12, 0),
        ]
        assert series.points[0].servers == 3 and series.points[0].per_s_min == 10
        assert (await history.read("another", seconds=HOUR, points=360, now=NOW)).points == ()


async def test_a_long_range_comes_in_few_points_that_keep_the_worst(tmp_path: Path) -> None:
    async with History.open(tmp_path / "h", days=30) as history:
        for minute in range(0, 3 * 24 * 60, 5):
            covered = 11 if minute == 1000 else 30
            await history.note([sample(covered=covered, per_s=1.0 + (minute % 2))], now=NOW - 3 * 86400 + 60 * minute)
        week = await history.read("m", seconds=7 * 86400, points=100, now=NOW)
        assert week.step % COARSE == 0 and 20 < len(week.points) <= 101
        assert min(point.covered for point in week.points) == 11
        assert all(1.0 <= point.per_s <= 2.0 for point in week.points)
        single = await history.read("m", seconds=7 * 86400, points=1, now=NOW)
        assert len(single.points) <= 2


async def test_old_samples_are_forgotten_fine_ones_first(tmp_path: Path) -> None:
    path = tmp_path / "h"
    async with History.open(path, days=3) as history:
        await history.note([sample()], now=NOW - 5 * 86400)
        await history.note([sample()], now=NOW - 2 * 86400)
        await history.note([sample()], now=NOW)
        assert len((await history.read("m", seconds=10 * 86400, points=1000, now=NOW)).points) == 2
    with sqlite3.connect(path) as connection:
        fine = connection.execute("select count(*) from slots where step = ? and at < ?", (FINE, NOW - FINE_KEPT))
        assert fine.fetchone() == (0,)
    connection.close()


def with_garbage(path: Path) -> None:
    path.write_bytes(b"no database at all " * 400)


def with_damage(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table slots (a)")
    connection.executemany("insert into slots values (?)", [("x" * 200,)] * 200)
    connection.execute("pragma application_id = 0x73776D31")
    connection.commit()
    connection.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)


def of_others(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table bookmarks (url)")
    connection.close()


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (with_garbage, "no SQLite file"),
        (with_damage, "damaged"),
        (of_others, "another program"),
        (a_folder, "unable to open"),
    ],
)
async def test_a_file_that_cannot_be_used_is_refused_and_left_as_it_is(
    spoil: object, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "history"
    spoil(path)  # type: ignore[operator]
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UsageError, match=words) as refused:
        async with History.open(path, days=1):
            pass
    assert str(path) in str(refused.value) and "give another file" in str(refused.value)
    assert before is None or path.read_bytes() == before


async def test_a_locked_file_is_refused_at_the_start_and_costs_only_samples_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarm.monitor.history.LOCK_TIMEOUT", 0.1)
    path = tmp_path / "h"
    async with History.open(path, days=1) as history:
        other = sqlite3.connect(path)
        other.execute("begin exclusive")
        await history.note([sample()], now=NOW)
        assert "locked by another process" in history.problem
        other.rollback()
        await history.note([sample()], now=NOW)
        assert history.problem == ""
        assert len((await history.read("m", seconds=60, points=1, now=NOW)).points) == 1
        other.close()
    blocker = sqlite3.connect(tmp_path / "new")
    blocker.execute("begin exclusive")
    with pytest.raises(UsageError, match="locked by another process"):
        async with History.open(tmp_path / "new", days=1):
            pass
    blocker.close()


async def test_two_monitors_may_share_a_file(tmp_path: Path) -> None:
    async with History.open(tmp_path / "h", days=1) as one, History.open(tmp_path / "h", days=1) as other:
        await one.note([sample(per_s=10.0)], now=NOW)
        await other.note([sample(per_s=30.0)], now=NOW)
        for each in (one, other):
            assert [point.per_s for point in (await each.read("m", seconds=60, points=1, now=NOW)).points] == [20.0]
