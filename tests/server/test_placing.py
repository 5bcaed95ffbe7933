"""The driver of placement, under a virtual clock: in which order a server announces, looks, drains and loads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from swarm.errors import CheckpointCorrupt, NotEnoughMemory, SwarmUnreachable
from swarm.planning import Act, Decision
from swarm.planning.placer import MAX_CLAIM_LOOKS
from swarm.server.placing import FAILED_PAUSE, Freedom, Placing
from swarm.types import ServerRecord, ServerState, Span, View
from tests.planning.views import record
from tests.virtual.loop import run

NUM_BLOCKS = 30
TTL = 6.0
STORING = 0.3
"""Seconds from a record's announcement until others read it."""


@dataclass
class Board:
    """Who announced what, as others read it a little later."""

    records: dict[str, ServerRecord] = field(default_factory=dict)
    is_down: bool = False

    async def store(self, told: ServerRecord) -> None:
        await asyncio.sleep(STORING)
        self.records[told.peer] = told

    def view(self) -> View:
        if self.is_down:
            raise SwarmUnreachable("nobody answers")
        # Those alive refresh their records.
        alive = tuple(replace(r, expires_at=time.time() + TTL) for r in self.records.values())
        return View(model="m", records=alive, taken_at=time.time())

    def covered(self) -> int:
        online = [r.span for r in self.records.values() if r.state is ServerState.ONLINE]
        return sum(any(block in span for span in online) for block in range(NUM_BLOCKS))


@dataclass
class PlayedServer:
    """Hands that write down what they are asked for.

    Attributes:
        deeds: What was done, in order.
        faults: By span, what happens when it is loaded.
        holds: What is loaded.
        takes_store: Whether what it announces is stored.
    """

    board: Board
    name: str = "me"
    size: int = 10
    sees_others: bool = True
    deeds: list[str] = field(default_factory=list)
    faults: dict[Span, Exception] = field(default_factory=dict)
    holds: Span | None = None
    takes_store: bool = True
    num_loads: int = 0

    def record(self) -> ServerRecord:
        return record(self.name, 0, self.size, decode_per_s=0.0, state=ServerState.JOINING, expires_at=0.0)

    def placing(self, freedom: Freedom = Freedom.FREE) -> Placing:
        return Placing(self.record(), self, freedom=freedom, ttl=TTL)

    async def announce(self, decision: Decision) -> bool:
        words = [decision.state.value, str(decision.span)]
        words += [f"-> {decision.next_span}"] if decision.next_span is not None else []
        if decision.state is ServerState.ONLINE:
            assert self.holds == decision.span, "it says that it serves what it has not loaded"
        if decision.act is not Act.LOOK or self.deeds[-1:] != [" ".join(words)]:
            self.deeds.append(" ".join(words))
        if not self.takes_store:
            await asyncio.sleep(10.0)
            return False
        speed = 1000.0 if self.holds is not None else 0.0
        told = replace(self.record(), state=decision.state, span=decision.span, decode_per_s=speed)
        await self.board.store(replace(told, next_span=decision.next_span, since=decision.since))
        return True

    async def look(self) -> View:
        self.deeds.append("look")
        return self.board.view()

    async def drain(self) -> None:
        self.deeds.append("drain")
        assert self.holds is not None, "there is nothing to drain"
        await asyncio.sleep(1.0)

    async def load(self, span: Span) -> float:
        self.deeds.append(f"load {span}")
        self.holds = None
        self.num_loads += 1
        await asyncio.sleep(2.0)
        if (fault := self.faults.get(span)) is not None:
            raise fault
        self.holds = span
        return 1000.0


def play(story: Callable[[Board], Coroutine[Any, Any, None]]) -> None:
    run(story(Board()))


async def for_a_while(placing: Placing, seconds: float) -> None:
    """Let a server run, then end it."""
    task = asyncio.create_task(placing.run())
    done, _ = await asyncio.wait((task,), timeout=seconds)
    task.cancel()
    if done:
        await task
    await asyncio.gather(task, return_exceptions=True)


def hold(board: Board, *spans: tuple[int, int]) -> None:
    """Let others serve these."""
    for start, end in spans:
        other = record(f"other {start}:{end}", start, end, decode_per_s=1000.0, since=1.0)
        board.records[other.peer] = other


def test_a_claim_is_stored_before_the_look_and_loaded_after_it() -> None:
    async def story(board: Board) -> None:
        hold(board, (0, 10), (20, 30))
        server = PlayedServer(board)
        began = time.time()
        await for_a_while(server.placing(), 6.0)
        assert server.deeds[:6] == [
            "look",
            "joining 10:20",
            "look",
            "joining 10:20",
            "load 10:20",
            "online 10:20",
        ]
        assert board.records["me"].state is ServerState.ONLINE
        assert 2.0 + STORING < board.records["me"].since - 2.0 - began < 4.0, "the wait counts from the store"

    play(story)


@pytest.mark.parametrize(("freedom", "span"), [(Freedom.FIXED, "0:10"), (Freedom.PLACED, "10:20")])
def test_who_did_not_say_auto_never_moves(freedom: Freedom, span: str) -> None:
    async def story(board: Board) -> None:
        hold(board, (0, 10), (20, 30))
        server = PlayedServer(board)
        task = asyncio.create_task(server.placing(freedom).run())
        await asyncio.sleep(20.0)
        assert task.done() and board.records["me"].state is ServerState.ONLINE
        del board.records["other 20:30"]
        await asyncio.sleep(1000.0)
        assert str(board.records["me"].span) == span and server.num_loads == 1
        assert ("look" in server.deeds) == (freedom is Freedom.PLACED)

    play(story)


def test_who_sees_nobody_serves_at_once_and_moves_when_there_is_cause() -> None:
    async def story(board: Board) -> None:
        server = PlayedServer(board, sees_others=False)
        began = time.time()
        task = asyncio.create_task(server.placing().run())
        while server.holds is None:
            await asyncio.sleep(0.1)
        assert time.time() - began < 2.5 and server.deeds == ["load 0:10", "online 0:10"]
        hold(board, (0, 10), (20, 30))
        await asyncio.sleep(20.0)
        assert server.holds == Span(10, 20)
        task.cancel()

    play(story)


def test_a_server_says_that_it_wants_to_move_then_drains_and_only_then_unloads() -> None:
    async def story(board: Board) -> None:
        hold(board, (0, 10), (10, 20), (20, 30))
        server = PlayedServer(board)
        task = asyncio.create_task(server.placing().run())
        await asyncio.sleep(10.0)
        assert str(server.holds) == "0:10"
        server.deeds.clear()
        del board.records["other 20:30"]
        left_at = time.time()
        while board.covered() < NUM_BLOCKS:
            assert time.time() - left_at < 30.0, server.deeds
            assert board.covered() == 20
            await asyncio.sleep(0.1)
        deeds = server.deeds[server.deeds.index("online 0:10 -> 20:30") :]
        assert deeds[:7] == [
            "online 0:10 -> 20:30",
            "look",
            "draining 0:10 -> 20:30",
            "drain",
            "joining 20:30",
            "load 20:30",
            "online 20:30",
        ]
        task.cancel()

    play(story)


def test_a_wish_that_nobody_stores_is_not_carried_out() -> None:
    async def story(board: Board) -> None:
        hold(board, (0, 10), (10, 20), (20, 30))
        server = PlayedServer(board)
        task = asyncio.create_task(server.placing().run())
        await asyncio.sleep(10.0)
        del board.records["other 20:30"]
        server.takes_store = False
        await asyncio.sleep(200.0)
        assert server.holds == Span(0, 10) and "drain" not in server.deeds
        server.takes_store = True
        await asyncio.sleep(30.0)
        assert server.holds == Span(20, 30)
        task.cancel()

    play(story)


def test_a_directory_that_is_down_delays_a_claim_and_nothing_else() -> None:
    async def story(board: Board) -> None:
        board.is_down = True
        server = PlayedServer(board)
        task = asyncio.create_task(server.placing().run())
        await asyncio.sleep(10.0)
        assert server.holds == Span(0, 10)
        await asyncio.sleep(100.0)
        assert server.num_loads == 1 and not task.done()
        board.is_down = False
        hold(board, (0, 10), (10, 20))
        await asyncio.sleep(20.0)
        assert server.holds == Span(20, 30)
        task.cancel()

    play(story)


def test_a_span_that_cannot_be_loaded_leaves_us_where_we_were_for_long() -> None:
    async def story(board: Board) -> None:
        hold(board, (0, 10), (10, 20), (20, 30))
        server = PlayedServer(board, faults={Span(20, 30): CheckpointCorrupt("a shard is missing")})
        task = asyncio.create_task(server.placing().run())
        await asyncio.sleep(10.0)
        del board.records["other 20:30"]
        await asyncio.sleep(30.0)
        assert server.deeds[-4:] == ["joining 20:30", "load 20:30", "load 0:10", "online 0:10"]
        assert server.holds == Span(0, 10) and board.records["me"].state is ServerState.ONLINE
        loads = server.num_loads
        await asyncio.sleep(FAILED_PAUSE - 60.0)
        assert server.num_loads == loads
        server.faults.clear()
        await asyncio.sleep(120.0)
        assert server.holds == Span(20, 30)
        task.cancel()

    play(story)


def test_who_can_load_nothing_ends_with_what_went_wrong() -> None:
    async def story(board: Board) -> None:
        server = PlayedServer(board, faults={Span(0, 10): NotEnoughMemory("no memory")})
        with pytest.raises(NotEnoughMemory):
            await asyncio.wait_for(server.placing().run(), 60.0)
        hold(board, (0, 10), (10, 20), (20, 30))
        server = PlayedServer(board, faults={Span(20, 30): NotEnoughMemory("no memory")})
        task = asyncio.create_task(server.placing().run())
        await asyncio.sleep(10.0)
        server.faults[Span(0, 10)] = CheckpointCorrupt("the disk is gone")
        del board.records["other 20:30"]
        with pytest.raises(CheckpointCorrupt):
            await asyncio.wait_for(task, 60.0)

    play(story)


HOSTILE = [
    record("liar", 0, 10, next_span=Span(5, 15), since=1e12),
    record("liar", 4000, 4090, num_blocks=4096),
    record("liar", 0, 10, num_blocks=10, decode_per_s=1e12),
]


@pytest.mark.parametrize("lie", HOSTILE)
def test_what_cannot_be_true_is_not_counted(lie: ServerRecord) -> None:
    async def story(board: Board) -> None:
        hold(board, (0, 10), (10, 20))
        board.records[lie.peer] = lie
        server = PlayedServer(board)
        task = asyncio.create_task(server.placing().run())
        await asyncio.sleep(10.0)
        assert server.holds == Span(20, 30)
        hold(board, (20, 30))
        del board.records["other 10:20"]
        await asyncio.sleep(20.0)
        assert server.holds == Span(10, 20)
        assert board.records["me"].since < time.time()
        task.cancel()

    play(story)


def test_servers_that_start_together_share_the_blocks_and_then_stay() -> None:
    async def story(board: Board) -> None:
        servers = [PlayedServer(board, name=f"server {index}") for index in range(6)]
        tasks = [asyncio.create_task(server.placing().run()) for server in servers]
        await asyncio.sleep(2.0 + MAX_CLAIM_LOOKS * 4.0)
        assert board.covered() == NUM_BLOCKS
        await asyncio.sleep(300.0)
        assert [server.num_loads for server in servers] == [1] * 6
        # Whoever holds the middle dies: one of the others comes, and the rest stays.
        gone = [index for index, server in enumerate(servers) if server.holds == Span(10, 20)]
        for index in gone:
            tasks[index].cancel()
            del board.records[servers[index].name]
        await asyncio.sleep(30.0)
        assert board.covered() == NUM_BLOCKS
        assert sum(server.num_loads for server in servers) == 7
        for task in tasks:
            task.cancel()

    play(story)


def test_an_end_in_the_middle_of_anything_comes_through() -> None:
    async def story(board: Board) -> None:
        for seconds in (0.1, 1.0, 3.0, 3.8, 5.0, 9.0, 12.0, 13.0, 14.0):
            hold(board, (0, 10), (10, 20), (20, 30))
            server = PlayedServer(board)
            task = asyncio.create_task(server.placing().run())
            asyncio.get_running_loop().call_later(7.0, board.records.pop, "other 20:30")
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.wait((task,), timeout=0.0)
            assert task.cancelled(), f"{seconds} s: {server.deeds}"

    play(story)


def test_what_the_flag_leaves_open() -> None:
    assert Freedom.of("auto", is_whole=False) is Freedom.FREE
    assert Freedom.of(12, is_whole=False) is Freedom.PLACED
    assert Freedom.of(Span(0, 3), is_whole=False) is Freedom.FIXED
    assert Freedom.of("auto", is_whole=True) is Freedom.FIXED  # there is nowhere else to go
