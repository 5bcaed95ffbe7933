from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from swarm.directory import Announcer
from swarm.types import ServerRecord
from tests.directory.members import MODEL, Member, member


@asynccontextmanager
async def announcing(server: Member, *, ttl: float) -> AsyncIterator[Announcer]:
    announcer = Announcer(server.directory, ttl=ttl)
    task = asyncio.create_task(announcer.run())
    yield announcer
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


@pytest.mark.slow
async def test_a_record_is_stored_refreshed_changed_and_withdrawn() -> None:
    async with member() as watcher, member(*watcher.peer.addrs) as server:
        async with announcing(server, ttl=1.5) as announcer:
            assert not announcer.is_stored
            announcer.update(server.record)
            await asyncio.wait_for(announcer.wait_stored(), 5)
            assert await watcher.sees() == {server.peer.peer_id}
            await asyncio.sleep(2.0)  # longer than the record lives
            assert await watcher.sees() == {server.peer.peer_id}
            announcer.update(replace(server.record, load=9))
            assert not announcer.is_stored
            await asyncio.wait_for(announcer.wait_stored(), 1)
            assert [record.load for record in (await watcher.directory.view(MODEL)).records] == [9]
        assert await watcher.sees() == set()


@pytest.mark.slow
async def test_a_store_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with member() as server:
        answers: list[object] = [OSError("no net"), False]

        async def announce(record: object, *, ttl: float) -> bool:
            answer = answers.pop(0) if answers else True
            if isinstance(answer, Exception):
                raise answer
            return bool(answer)

        monkeypatch.setattr(server.directory, "announce", announce)
        monkeypatch.setattr("swarm.directory.announcer._RETRY_FIRST", 0.01)
        async with announcing(server, ttl=60) as announcer:
            announcer.update(server.record)
            await asyncio.wait_for(announcer.wait_stored(), 5)
            assert answers == []


@pytest.mark.slow
async def test_whoever_waits_for_a_record_that_changes_while_it_is_stored_neither_hangs_nor_spins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with member() as server:
        stores: list[int] = []

        async def announce(record: ServerRecord, *, ttl: float) -> bool:
            if len(stores) < 3:  # it changes in the middle of each store
                announcer.update(replace(server.record, load=len(stores) + 1))
            await asyncio.sleep(0.01)
            stores.append(record.load)
            return len(stores) > 1

        monkeypatch.setattr(server.directory, "announce", announce)
        monkeypatch.setattr("swarm.directory.announcer._REST", 0.01)
        async with announcing(server, ttl=60) as announcer:
            announcer.update(replace(server.record, load=0))
            await asyncio.wait_for(announcer.wait_stored(), 5)
            assert stores == [0, 1] and not announcer.is_stored
            await asyncio.sleep(0.2)
            assert stores == [0, 1, 2, 3] and announcer.is_stored


@pytest.mark.slow
async def test_nothing_is_announced_before_there_is_a_record() -> None:
    async with member() as server:
        async with announcing(server, ttl=1.0):
            await asyncio.sleep(0.3)
        assert await server.sees() == set()


@pytest.mark.slow
async def test_who_waits_while_the_record_changes_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with member() as server:
        began, may_end = asyncio.Event(), asyncio.Event()
        stored: list[int] = []

        async def announce(record: ServerRecord, *, ttl: float) -> bool:
            began.set()
            await may_end.wait()
            stored.append(record.load)
            return True

        monkeypatch.setattr(server.directory, "announce", announce)
        async with announcing(server, ttl=60) as announcer:
            announcer.update(replace(server.record, load=1))
            await began.wait()
            announcer.update(replace(server.record, load=2))  # while the first is on its way
            waiting = asyncio.create_task(announcer.wait_stored())
            may_end.set()
            await asyncio.wait_for(waiting, 5)
            assert stored == [1, 2]
