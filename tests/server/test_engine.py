"""The engine with a real tiny stack: each result is compared with the same tokens run in a new sequence."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from swarm.blocks import BlockStack, KVCache, PageTable
from swarm.blocks import Row as BlockRow
from swarm.errors import BadResult, Busy, HopFailed, SessionLost, SwarmError
from swarm.server.engine import Engine, Work
from swarm.types import Span
from swarm.wire import Row

CLOSE = {"rtol": 0.0, "atol": 1e-4}
"""float32 matmuls of few rows and of many differ in the last bits; the outputs here are around ten."""


def tokens(count: int, *, seed: int = 0) -> Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(seed))


class Bench:
    """An engine, its cache, and one session's sequences."""

    def __init__(self, stack: BlockStack, num_pages: int = 64) -> None:
        self.stack = stack
        self.cache: KVCache = stack.new_cache(num_pages)
        self.engine = Engine(stack, self.cache, threads=1)
        self.sequences: dict[int, PageTable] = {}

    def submit(
        self,
        rows: Sequence[Row],
        hidden: Tensor,
        *,
        keeps_all: bool = True,
        is_stale: Callable[[], bool] = lambda: False,
    ) -> asyncio.Future[Tensor | None]:
        answer: asyncio.Future[Tensor | None] = asyncio.get_running_loop().create_future()

        def finished(packed: Any, error: SwarmError | None) -> None:
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(packed)

        self.engine.submit(
            Work(
                sequences=self.sequences,
                rows=rows,
                hidden=hidden,
                span=self.stack.span,
                is_stale=is_stale,
                keeps_all=keeps_all,
                pack=lambda work, output: output,  # type: ignore[arg-type,return-value]
                send_now=lambda packed, error: False,
                finished=finished,
                arrived_at=0.0,
            )
        )
        return answer

    async def run(self, rows: Sequence[Row], hidden: Tensor, *, keeps_all: bool = True) -> Tensor:
        output = await asyncio.wait_for(self.submit(rows, hidden, keeps_all=keeps_all), 20)
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
        bench.engine.release(bench.sequences)


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
        bench.engine.release(bench.sequences)
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
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Tensor | None] = loop.create_future()
        bench.engine.submit(
            Work(
                sequences={},
                rows=[Row(0, 0, 0, 5, 5)],
                hidden=hidden,
                span=Span(1, 2),
                is_stale=lambda: False,
                keeps_all=True,
                pack=lambda work, output: output,  # type: ignore[arg-type,return-value]
                send_now=lambda packed, error: False,
                finished=lambda packed, error: answer.set_result(packed),  # type: ignore[arg-type]
                arrived_at=0.0,
            )
        )
        output = await answer
    assert output is not None
    torch.testing.assert_close(output, middle, **CLOSE)


async def test_stale_work_is_skipped_and_answered_with_nothing(stack: BlockStack) -> None:
    bench = Bench(stack)
    with bench.engine:
        assert await bench.submit([Row(0, 0, 0, 4, 4)], tokens(4), is_stale=lambda: True) is None
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
        bench.engine.release(bench.sequences)
        await bench.submit([Row(0, 0, 0, 1, 0)], tokens(1), is_stale=lambda: True)
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
        with pytest.raises(HopFailed, match="ValueError in blocks 0:3"):
            await bench.run([Row(0, 0, 0, 3, 3)], tokens(2))  # a token fewer than the rows say
        bench.cache.check()
        assert bench.sequences[0].length == 0
        torch.testing.assert_close(await bench.run([Row(0, 0, 0, 3, 3)], hidden), bench.alone(hidden), **CLOSE)
    assert "a step of 1 rows failed" in caplog.text


async def test_leaving_the_engine_drops_what_still_waits(stack: BlockStack) -> None:
    bench = Bench(stack)
    with bench.engine:
        gate, rows = threading.Event(), [Row(0, 0, 0, 200, 0)]
        answers = [bench.submit(rows, tokens(200), is_stale=lambda: not gate.wait(20)) for _ in range(50)]
        assert bench.engine.load == 50
        gate.set()
    assert sum(answer.done() for answer in answers) == 0  # the loop has not run since
    await asyncio.sleep(0)
    assert sum(answer.done() for answer in answers) < 50
