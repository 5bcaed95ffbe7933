"""Many sessions in one engine: nobody's numbers change, nobody is held up, pages are waited for and found again."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from swarm.blocks import BlockStack, open_checkpoint
from swarm.blocks import Row as BlockRow
from swarm.blocks.native import kernel_name
from swarm.blocks.native.binding import TORCH
from swarm.errors import BadResult, Busy, HopFailed
from swarm.server.sessions import Session
from swarm.types import Span
from swarm.wire import Row
from tests.builders import make_llama
from tests.server.test_engine import Bench, tokens

NATIVE = kernel_name() != TORCH


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8", "int4"])
def any_stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BlockStack:
    """The three blocks of a tiny model in every format."""
    if request.param != "float32" and not NATIVE:
        pytest.skip("only the native kernels give a row the same bits whatever its company")
    folder: Path = tmp_path_factory.mktemp("tiny") / "tiny"
    make_llama(folder, 1)
    quant: Any = request.param if request.param.startswith("int") else "none"
    dtype = torch.float32 if request.param == "float32" else torch.bfloat16
    return BlockStack.load(open_checkpoint(str(folder)), Span(0, 3), dtype=dtype, quant=quant)


async def live(bench: Bench, hidden: Tensor, lengths: list[int], *, client: str = "client") -> Tensor:
    """Run a session's tokens in steps of these lengths; return all outputs."""
    session, outputs, at = bench.open(client, num_hops=3), [], 0
    for length in lengths:
        outputs.append(await bench.run([Row(0, 0, at, length, length)], hidden[at : at + length], session=session))
        at += length
    session.end()
    bench.engine.release(session)
    return torch.cat(outputs)


async def test_sixteen_uneven_sessions_that_come_and_go_have_the_bits_of_their_solo_runs(any_stack: BlockStack) -> None:
    dice, bench = random.Random(5), Bench(any_stack, num_pages=400)
    plans = [
        [dice.randrange(1, 90), *[dice.choice((1, 1, 1, 1, 3, 7)) for _ in range(dice.randrange(5, 25))]]
        for _ in range(16)
    ]
    hidden = [tokens(sum(plan), seed=index) for index, plan in enumerate(plans)]

    async def late(index: int) -> Tensor:
        await asyncio.sleep(dice.random() * 0.05)
        return await live(bench, hidden[index], plans[index], client=f"c{index % 3}")

    with bench.engine:
        together = await asyncio.gather(*(late(index) for index in range(16)))
        assert bench.engine.stats().batch_rows_max > 1  # else nothing was shown
        alone = [await live(bench, hidden[index], plans[index]) for index in range(16)]
        await bench.engine.call(bench.cache.check)
        assert bench.engine.free_pages == bench.cache.num_pages
    for one, other in zip(together, alone, strict=True):
        if any_stack.dtype == torch.float32:  # torch's own products: the last bits depend on the number of rows
            torch.testing.assert_close(one, other, rtol=0.0, atol=1e-4)
        else:
            assert torch.equal(one, other)


async def test_decodes_are_not_held_up_by_a_long_prompt(stack: BlockStack, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, order = Bench(stack, num_pages=200), list[str]()
    prompt, decoding = bench.open(), bench.open()
    with bench.engine:
        await bench.run([Row(0, 0, 0, 9, 0)], tokens(9), session=decoding)

        async def long() -> None:
            chunks = [bench.submit([Row(0, 0, at, 128, 0)], tokens(128), session=prompt) for at in range(0, 256, 128)]
            await asyncio.gather(*chunks)
            order.append("prompt")

        async def short() -> None:
            for at in range(9, 13):
                await bench.run([Row(0, 0, at, 1, 1)], tokens(1), session=decoding)
                order.append("token")

        slow(monkeypatch, stack)
        await asyncio.gather(long(), short())
    assert order == ["token"] * 4 + ["prompt"]


def slow(monkeypatch: pytest.MonkeyPatch, stack: BlockStack) -> None:
    """Let a prompt's token take a tenth of a millisecond in each block, as in a model of a useful size."""
    forward = stack.forward

    def slowed(hidden: Tensor, *args: Any, span: Span, **kwargs: Any) -> Tensor:
        time.sleep(1e-4 * len(hidden) * len(span))
        return forward(hidden, *args, span=span, **kwargs)

    monkeypatch.setattr(stack, "forward", slowed)


async def test_a_short_prompt_overtakes_a_long_one(stack: BlockStack, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, order = Bench(stack, num_pages=300), list[str]()
    long, short = bench.open(), bench.open()
    slow(monkeypatch, stack)
    monkeypatch.setattr("swarm.server.scheduler.LEVEL_TOKENS", 64)  # the model's whole context is 256
    with bench.engine:

        async def run(name: str, session: Session, chunks: int) -> None:
            steps = [Row(0, 0, at * 100, 100, 0) for at in range(chunks)]  # the context is 256
            await asyncio.gather(*(bench.submit([row], tokens(100), session=session) for row in steps))
            order.append(name)

        first = asyncio.create_task(run("long", long, 2))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, run("short", short, 1))
    assert order == ["short", "long"]


async def test_rubbish_of_one_session_does_not_harm_the_batch_it_came_in(stack: BlockStack) -> None:
    bench, rubbish = Bench(stack), tokens(1)
    rubbish[0, 3] = torch.inf
    sessions = [bench.open() for _ in range(4)]
    with bench.engine:
        await asyncio.gather(
            *(bench.run([Row(0, 0, 0, 5, 0)], tokens(5, seed=i), session=s) for i, s in enumerate(sessions))
        )
        gate = asyncio.ensure_future(bench.engine.call(lambda: time.sleep(0.05)))
        answers = [
            bench.submit([Row(0, 0, 5, 1, 1)], rubbish if i == 2 else tokens(1, seed=10 + i), session=s)
            for i, s in enumerate(sessions)
        ]
        done = await asyncio.gather(*answers, return_exceptions=True)
        await gate
        assert isinstance(done[2], BadResult)
        assert sessions[2].sequences[0].length == 5  # it may try again
        for index in (0, 1, 3):
            expected = bench.alone(torch.cat([tokens(5, seed=index), tokens(1, seed=10 + index)]))[-1:]
            assert isinstance(done[index], Tensor)
            torch.testing.assert_close(done[index], expected, rtol=0.0, atol=1e-4)


async def test_a_session_that_ends_in_the_middle_of_its_prompt_frees_its_pages_and_the_rest_goes_on(
    stack: BlockStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(stack)
    gone, stays = bench.open(), bench.open()
    slow(monkeypatch, stack)
    with bench.engine:
        lost = bench.submit([Row(0, 0, 0, 200, 0)], tokens(200), session=gone)
        kept = bench.submit([Row(0, 0, 0, 200, 200)], tokens(200, seed=1), session=stays)
        await asyncio.sleep(0.02)  # both are under way
        gone.end()
        bench.engine.release(gone)
        assert await lost is None
        output = await kept
        assert output is not None
        await bench.engine.call(bench.cache.check)
        assert bench.cache.num_pages - bench.cache.free_pages == 13
    monkeypatch.undo()
    torch.testing.assert_close(output, bench.alone(tokens(200, seed=1)), rtol=0.0, atol=1e-4)


async def test_a_session_that_ends_takes_its_waiting_steps_along_and_leaves_no_trace(stack: BlockStack) -> None:
    bench = Bench(stack)
    with bench.engine:
        held = asyncio.ensure_future(bench.engine.call(lambda: time.sleep(0.05)))
        await asyncio.sleep(0)
        answers = [bench.submit([Row(0, 0, at, 1, 1)], tokens(1)) for at in range(20)]
        bench.session.end()
        bench.engine.release(bench.session)
        assert await asyncio.wait_for(asyncio.gather(*answers), 5) == [None] * 20
        await held
        await live(bench, tokens(3), [3])
        await bench.engine.call(bench.cache.check)
        assert bench.engine.load == 0 and bench.engine.stats().sequences == 0


async def test_pages_are_used_up_before_anybody_is_told_busy_and_the_oldest_session_goes_on(stack: BlockStack) -> None:
    bench = Bench(stack, num_pages=40)
    sessions = [bench.open() for _ in range(8)]
    used: list[int] = []

    async def grow(session: Session) -> int:
        """Feed 16 tokens at a time up to 160; a session that is told Busy ends, as clients do."""
        for at in range(0, 160, 16):
            try:
                await bench.run([Row(0, 0, at, 16, 0)], tokens(16), session=session)
            except Busy:
                used.append(bench.cache.num_pages - bench.cache.free_pages)
                session.end()
                bench.engine.release(session)
                return at
        return 160

    with bench.engine:
        reached = await asyncio.gather(*(grow(session) for session in sessions))
        assert bench.engine.stats().num_busy == len(used)
    assert min(used[:1]) >= 38  # 95 % of 40
    assert reached[0] == 160 and sum(at == 160 for at in reached) == 4  # as many as fit, the oldest among them


async def test_a_step_that_waits_for_pages_runs_once_another_session_ends(stack: BlockStack) -> None:
    bench = Bench(stack, num_pages=8)
    first, second = bench.open(), bench.open()
    with bench.engine:
        await bench.run([Row(0, 0, 0, 100, 0)], tokens(100), session=first)
        waits = bench.submit([Row(0, 0, 0, 40, 40)], tokens(40, seed=1), session=second)
        await asyncio.sleep(0.1)
        assert not waits.done() and bench.engine.is_short_of_pages
        first.end()
        bench.engine.release(first)
        output = await asyncio.wait_for(waits, 5)
        assert output is not None
        torch.testing.assert_close(output, bench.alone(tokens(40, seed=1)), rtol=0.0, atol=1e-4)


async def test_a_fork_that_had_to_wait_for_pages_is_made_once(stack: BlockStack) -> None:
    bench, new = Bench(stack, num_pages=4), tokens(2, seed=3)
    holder = bench.open()
    with bench.engine:
        await bench.run([Row(0, 0, 0, 16, 0), Row(1, 1, 0, 16, 0)], torch.cat([tokens(16), tokens(16, seed=1)]))
        await bench.run([Row(0, 0, 0, 32, 0)], tokens(32), session=holder)
        traded = bench.submit([Row(0, 1, 16, 1, 1), Row(1, 0, 16, 1, 1)], new)  # needs two pages, none is free
        await asyncio.sleep(0.1)
        holder.end()
        bench.engine.release(holder)
        output = await traded
        assert output is not None
        expected = [bench.alone(torch.cat([tokens(16, seed=1 - i), new[i : i + 1]]))[-1] for i in range(2)]
        torch.testing.assert_close(output, torch.stack(expected), rtol=0.0, atol=1e-4)


async def test_marked_pages_are_found_again_by_the_same_client_under_the_same_lineage_only(stack: BlockStack) -> None:
    bench, hidden = Bench(stack), tokens(40)
    hashes = [bytes([index]) * 16 for index in range(2)]
    with bench.engine:
        whole = await bench.run([Row(0, 0, 0, 40, 40)], hidden, marks=b"".join(hashes))
        running = await found(bench, bench.open(), hashes)
        bench.session.end()
        bench.engine.release(bench.session)
        again, stranger, elsewhere = bench.open(), bench.open("stranger"), bench.open(span=Span(0, 2))
        other_route = bench.open()
        other_route.lineage = b"m" * 16
        assert [running, await found(bench, again, [*hashes, b"?" * 16])] == [32, 32]
        for session in (stranger, elsewhere, other_route):
            assert await found(bench, session, hashes) == 0
        rest = await bench.run([Row(0, 0, 32, 8, 8)], hidden[32:], session=again)
        torch.testing.assert_close(rest, whole[32:], rtol=0.0, atol=1e-4)
        stats = bench.engine.stats()
        assert (stats.prefix_wanted, stats.prefix_found) == (32 * 5 + 16, 64)
        await bench.engine.call(bench.cache.check)


async def found(bench: Bench, session: Session, hashes: list[bytes]) -> int:
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    bench.engine.find(session, 0, hashes, answer.set_result)
    return await asyncio.wait_for(answer, 5)


async def test_the_engine_tells_what_it_does(stack: BlockStack) -> None:
    bench = Bench(stack)
    with bench.engine:
        await bench.run([Row(0, 0, 0, 40, 0)], tokens(40))
        for at in range(40, 44):
            await bench.run([Row(0, 0, at, 1, 1)], tokens(1))
        stats = bench.engine.stats()
    assert (stats.sessions, stats.running, stats.waiting, stats.sequences) == (1, 0, 0, 1)
    assert (stats.pages, stats.pages_used, stats.pages_cached, stats.bytes_waiting) == (64, 3, 0, 0)
    assert stats.prefill_per_s > stats.decode_per_s > 0
    assert stats.batch_rows == stats.batch_rows_max == 1
    assert 0 < stats.queue_p50 <= stats.queue_p95 <= stats.queue_p99


async def test_disorder_among_the_pages_is_noticed_when_nothing_happens(
    stack: BlockStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("swarm.server.engine.CHECK_AFTER", 0.05)
    bench = Bench(stack)
    with bench.engine:
        await bench.run([Row(0, 0, 0, 40, 0)], tokens(40))
        await bench.engine.call(lambda: bench.cache._allocator.allocate(1))  # a page that nobody knows of
        await asyncio.sleep(0.3)
        with pytest.raises(HopFailed, match="disorder"):
            await bench.run([Row(0, 0, 40, 1, 0)], tokens(1))
    assert "must be started anew" in caplog.text


async def test_more_than_may_wait_is_refused_at_once(stack: BlockStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.server.engine.MAX_WAITING_BYTES", 10_000)
    bench = Bench(stack)
    with bench.engine:
        hold = asyncio.ensure_future(bench.engine.call(lambda: time.sleep(0.05)))
        await asyncio.sleep(0)
        waiting = bench.submit([Row(0, 0, 0, 30, 0)], tokens(30))
        with pytest.raises(Busy, match="wait here"):
            bench.submit([Row(0, 0, 30, 30, 0)], tokens(30))
        bench.waiting.popitem()
        await waiting
        await hold
        await bench.run([Row(0, 0, 30, 30, 0)], tokens(30))


@pytest.mark.parametrize("kind", ["step", "span"])
async def test_two_spans_of_one_server_run_side_by_side(stack: BlockStack, kind: str) -> None:
    bench = Bench(stack)
    part = BlockRow(bench.cache.new_sequence(), 0, 5)
    bench.cache.prepare(part.sequence, 0, 5)
    expected = stack.forward(tokens(5), [part], bench.cache, span=Span(1, 3))
    bench.cache.release(part.sequence)
    length = 5 if kind == "step" else 40
    with bench.engine:
        whole, rest = await asyncio.gather(
            bench.run([Row(0, 0, 0, length, length)], tokens(length), session=bench.open()),
            bench.run([Row(0, 0, 0, 5, 5)], tokens(5), session=bench.open(span=Span(1, 3))),
        )
    torch.testing.assert_close(whole, bench.alone(tokens(length)), rtol=0.0, atol=1e-4)
    torch.testing.assert_close(rest, expected, rtol=0.0, atol=1e-4)


async def test_a_look_up_overtakes_no_step_of_its_session(stack: BlockStack, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, hashes = Bench(stack), [b"h" * 16]
    rows = [Row(number, number, 0, 20, 1) for number in range(10)]
    other = bench.open()
    slow(monkeypatch, stack)
    with bench.engine:
        whole = bench.submit(rows, tokens(200), marks=b"".join(bytes([number]) * 16 for number in range(10)))
        await asyncio.sleep(0.01)  # the first rows are under way
        assert await found(bench, bench.session, hashes) == 0
        assert await whole is not None
        assert all(bench.sequences[number].length == 20 for number in range(10))
        assert await bench.run([Row(0, 0, 0, 3, 3)], tokens(3), session=other) is not None
        await bench.engine.call(bench.cache.check)


async def test_a_step_whose_pages_cannot_be_kept_fails_alone(
    stack: BlockStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench, other = Bench(stack), Bench(stack).open()
    monkeypatch.setattr(bench.cache, "keep", lambda *args: 1 / 0)
    with bench.engine:
        with pytest.raises(HopFailed, match="ZeroDivisionError"):
            await bench.run([Row(0, 0, 0, 20, 1)], tokens(20), marks=b"m" * 16)
        assert await bench.run([Row(0, 0, 0, 20, 1)], tokens(20), session=other) is not None


async def test_a_blocked_step_that_became_stale_gives_its_place_and_its_pages_back(stack: BlockStack) -> None:
    bench = Bench(stack, num_pages=8)
    holder, late = bench.open(), bench.open()
    with bench.engine:
        await bench.run([Row(0, 0, 0, 96, 0)], tokens(96), session=holder)  # two pages are left
        blocked = bench.submit([Row(0, 0, 0, 100, 0)], tokens(100), session=late)
        await asyncio.sleep(0.05)
        late.epoch = 1
        short = bench.submit([Row(0, 0, 0, 20, 20)], tokens(20), epoch=1, session=late)
        assert await asyncio.wait_for(blocked, 5) is None
        assert await asyncio.wait_for(short, 5) is not None
        assert bench.engine.stats().num_busy == 0


async def test_bytes_count_until_they_have_run(stack: BlockStack) -> None:
    bench = Bench(stack)
    with bench.engine:
        held = asyncio.ensure_future(bench.engine.call(lambda: time.sleep(0.05)))
        await asyncio.sleep(0)
        answers = [bench.submit([Row(0, 0, at, 8, 0)], tokens(8)) for at in range(0, 80, 8)]
        await asyncio.sleep(0.01)
        assert bench.engine.stats().bytes_waiting == 80 * 64 * 4
        await asyncio.gather(held, *answers)
        assert bench.engine.stats().bytes_waiting == 0
        assert (bench.session.bytes_done, bench.engine.load) == (80 * 64 * 4, 0)
