"""The engine with a real tiny stack: each result is compared with the same tokens run in a new sequence."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from swarm.blocks import BlockStack, KVCache, PageTable
from swarm.blocks import Row as BlockRow
from swarm.errors import BadResult, Busy, HopFailed, SessionLost, SwarmError
from swarm.server.engine import Engine
from swarm.server.sessions import Session
from swarm.server.work import Work
from swarm.types import PeerId, Span
from swarm.wire import Row, Step
from swarm.wire.codecs import decode_tensor, encode_tensor
from swarm.wire.rows import TRY_BITS

CLOSE = {"rtol": 0.0, "atol": 1e-4}
"""float32 matmuls of few rows and of many differ in the last bits; the outputs here are around ten."""


def tokens(count: int, *, seed: int = 0) -> Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(seed))


def read(answer: memoryview) -> Tensor:
    return decode_tensor(bytes(answer), "float32", tokens=len(answer) // 256, hidden_size=64)


class Bench:
    """An engine, its cache, and sessions of it."""

    def __init__(self, stack: BlockStack, num_pages: int = 64) -> None:
        self.stack = stack
        self.cache: KVCache = stack.new_cache(num_pages)
        self.engine = Engine(stack, self.cache, threads=1)
        self.engine.deliver_to(self.deliver)
        self.session = self.open()
        self.num_steps = 0
        self.waiting: dict[Work, asyncio.Future[Tensor | None]] = {}

    @property
    def sequences(self) -> dict[int, PageTable]:
        return self.session.sequences

    def open(self, client: str = "client", *, span: Span | None = None, num_hops: int = 1) -> Session:
        return Session(
            session_id=os.urandom(16),
            owner=cast(Any, None),
            client=PeerId(client),
            span=span or self.stack.span,
            codec="float32",
            next_peer=PeerId(""),
            next_addrs=(),
            num_hops=num_hops,
            lineage=b"l" * 16,
            opened_at=time.monotonic(),
        )

    def deliver(self, works: Sequence[Work]) -> None:
        loop = self.engine._loop
        for work in works:
            loop.call_soon_threadsafe(self.answer, work)

    def answer(self, work: Work) -> None:
        answer = self.waiting.pop(work)
        if work.error is not None:
            answer.set_exception(work.error)
        else:
            answer.set_result(None if work.answer is None else read(work.answer))

    def submit(
        self,
        rows: Sequence[Row],
        hidden: Tensor,
        *,
        keeps_all: bool = True,
        epoch: int = 0,
        session: Session | None = None,
        marks: bytes = b"",
    ) -> asyncio.Future[Tensor | None]:
        session = session or self.session
        answer: asyncio.Future[Tensor | None] = asyncio.get_running_loop().create_future()
        route = ("next",) if keeps_all else ()
        self.num_steps += 1
        number = self.num_steps << TRY_BITS
        step = Step(session.session_id, number, epoch, "float32", tuple(rows), route, marks)
        body = bytearray(encode_tensor(hidden, "float32"))
        work = Work.of(session, step, body, tokens=sum(row.length for row in rows), arrived_at=time.monotonic())
        self.waiting[work] = answer
        self.engine.submit(work)
        return answer

    async def run(self, rows: Sequence[Row], hidden: Tensor, **options: Any) -> Tensor:
        output = await asyncio.wait_for(self.submit(rows, hidden, **options), 20)
        assert output is not None
        return output

    def alone(self, hidden: Tensor) -> Tensor:
        """The same tokens as one whole new sequence."""
        cache = self.stack.new_cache(64)
        sequence = cache.new_sequence()
        cache.prepare(sequence, 0, len(hidden))
        return self.stack.forward(hidden, [BlockRow(sequence, 0, len(hidden))], cache)


async def test_decoding_after_a_prefill_equals_one_whole_run(stack: BlockStack) -> None:
    bench, hidden = Bench(stack), tokens(20)
    with bench.engine:
        parts = [await bench.run([Row(0, 0, 0, 17, 17)], hidden[:17])]
        parts += [await bench.run([Row(0, 0, at, 1, 1)], hidden[at : at + 1]) for at in (17, 18, 19)]
    torch.testing.assert_close(torch.cat(parts), bench.alone(hidden), **CLOSE)


async def test_a_lower_position_rolls_back(stack: BlockStack) -> None:
    bench, hidden, other = Bench(stack), tokens(20), tokens(4, seed=1)
    with bench.engine:
        await bench.run([Row(0, 0, 0, 20, 0)], hidden)
        output = await bench.run([Row(0, 0, 6, 4, 4)], other)
    torch.testing.assert_close(output, bench.alone(torch.cat([hidden[:6], other]))[6:], **CLOSE)
    assert bench.sequences[0].length == 10


async def test_beams_that_trade_places_each_see_the_state_before_the_step(stack: BlockStack) -> None:
    bench, first, second, new = Bench(stack), tokens(18, seed=1), tokens(18, seed=2), tokens(2, seed=3)
    with bench.engine:
        await bench.run([Row(0, 0, 0, 18, 0), Row(1, 1, 0, 18, 0)], torch.cat([first, second]))
        output = await bench.run([Row(0, 1, 18, 1, 1), Row(1, 0, 18, 1, 1)], new)
        expected = [bench.alone(torch.cat([held, new[i : i + 1]]))[-1] for i, held in enumerate((second, first))]
        torch.testing.assert_close(output, torch.stack(expected), **CLOSE)
        bench.cache.check()
        bench.engine.release(bench.session)


async def test_one_row_may_become_many_and_the_pages_are_freed_at_the_end(stack: BlockStack) -> None:
    bench, held, new = Bench(stack), tokens(20), tokens(4, seed=1)
    with bench.engine:
        await bench.run([Row(0, 0, 0, 20, 0)], held)
        used = bench.cache.num_pages - bench.cache.free_pages
        output = await bench.run([Row(i, 0, 20, 1, 1) for i in range(4)], new)
        for i in range(4):
            torch.testing.assert_close(output[i], bench.alone(torch.cat([held, new[i : i + 1]]))[-1], **CLOSE)
        bench.cache.check()
        assert bench.cache.num_pages - bench.cache.free_pages == used + 3  # the full page is shared
        bench.engine.release(bench.session)
        await bench.run([Row(0, 0, 0, 1, 1)], new[:1])
        bench.cache.check()
        assert bench.cache.free_pages == bench.cache.num_pages - 1


async def test_only_the_kept_tokens_of_each_row_travel_to_the_client(stack: BlockStack) -> None:
    bench, hidden = Bench(stack), tokens(9)
    rows = [Row(0, 0, 0, 4, 1), Row(1, 1, 0, 2, 0), Row(2, 2, 0, 3, 3)]
    with bench.engine:
        kept = await bench.run(rows, hidden, keeps_all=False)
        everything = await bench.run(rows, hidden)
        nothing = await bench.run([Row(0, 0, 2, 0, 0)], hidden[:0], keeps_all=False)
    torch.testing.assert_close(kept, everything[[3, 6, 7, 8]], rtol=0, atol=0)
    assert nothing.shape == (0, 64)
    assert bench.sequences[0].length == 2


async def test_a_part_of_the_span_runs_only_its_own_blocks(stack: BlockStack) -> None:
    bench, hidden = Bench(stack), tokens(5)
    cache = stack.new_cache(4)
    sequence = cache.new_sequence()
    cache.prepare(sequence, 0, 5)
    middle = stack.forward(hidden, [BlockRow(sequence, 0, 5)], cache, span=Span(1, 2))
    with bench.engine:
        output = await bench.run([Row(0, 0, 0, 5, 5)], hidden, session=bench.open(span=Span(1, 2)))
    torch.testing.assert_close(output, middle, **CLOSE)


async def test_stale_work_is_skipped_and_answered_with_nothing(stack: BlockStack) -> None:
    bench = Bench(stack)
    with bench.engine:
        bench.session.epoch = 1
        assert await bench.submit([Row(0, 0, 0, 4, 4)], tokens(4)) is None
    assert bench.sequences == {} and bench.engine.load == 0


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([Row(0, 7, 3, 1, 1), Row(1, 1, 0, 1, 1)], SessionLost),  # forks from a sequence that is not there
        ([Row(0, 0, 30, 2, 2)], SessionLost),  # a gap
        ([Row(0, 0, 20, 1, 1), Row(1, 1, 5, 1, 1)], SessionLost),  # the second row has a gap, the first is fine
        ([Row(0, 0, 20, 300, 1)], Busy),  # more than the pool holds
        ([Row(2, 0, 20, 1, 1), Row(0, 0, 20, 300, 1)], Busy),
    ],
)
async def test_a_step_that_is_refused_leaves_no_page_behind(
    stack: BlockStack, rows: list[Row], kind: type[SwarmError]
) -> None:
    bench, held = Bench(stack, num_pages=8), tokens(20)
    with bench.engine:
        await bench.run([Row(0, 0, 0, 20, 0)], held)
        with pytest.raises(kind):
            await bench.run(rows, tokens(sum(row.length for row in rows)))
        bench.cache.check()
        assert bench.sequences[0].length <= 20
        again = await bench.run([Row(0, 0, 20, 1, 1)], tokens(1, seed=5))
        torch.testing.assert_close(again, bench.alone(torch.cat([held, tokens(1, seed=5)]))[-1:], **CLOSE)
        bench.engine.release(bench.session)
        await bench.engine.call(lambda: None)
        assert bench.cache.free_pages == bench.cache.num_pages


async def test_activations_that_are_not_finite_are_refused(stack: BlockStack) -> None:
    bench, hidden = Bench(stack), tokens(3)
    hidden[1, 5] = torch.nan
    with bench.engine, pytest.raises(BadResult, match="not finite"):
        await bench.run([Row(0, 0, 0, 3, 3)], hidden)
    assert bench.cache.free_pages == bench.cache.num_pages


async def test_a_step_that_breaks_fails_alone_and_the_next_one_runs(
    stack: BlockStack, caplog: pytest.LogCaptureFixture
) -> None:
    bench, hidden = Bench(stack), tokens(3)
    with bench.engine:
        other = bench.open(span=Span(0, 9))  # more blocks than there are
        with pytest.raises(HopFailed, match="ValueError in blocks 0:9"):
            await bench.run([Row(0, 0, 0, 3, 3)], tokens(3), session=other)
        bench.cache.check()
        assert other.sequences[0].length == 0
        torch.testing.assert_close(await bench.run([Row(0, 0, 0, 3, 3)], hidden), bench.alone(hidden), **CLOSE)
    assert "a step of 1 rows failed" in caplog.text


async def test_leaving_the_engine_drops_what_still_waits(stack: BlockStack) -> None:
    bench = Bench(stack)
    with bench.engine:
        gate, rows = threading.Event(), [Row(0, 0, 0, 200, 0)]
        threading.Timer(0.2, gate.set).start()  # leaving waits for what runs
        held = asyncio.ensure_future(bench.engine.call(lambda: gate.wait(20)))
        await asyncio.sleep(0)
        answers = [bench.submit(rows, tokens(200)) for _ in range(50)]
        assert bench.engine.load == 50
    assert sum(answer.done() for answer in answers) == 0  # the loop has not run since
    await held
    assert sum(answer.done() for answer in answers) < 50
