"""A session over fake channels, whose far ends the tests play."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from swarm.client.config import ClientConfig, Timeouts
from swarm.client.legs import Leg
from swarm.client.opening import HopUnusable, Model, Wanted
from swarm.client.prefixes import extend_hashes
from swarm.client.session import Session
from swarm.client.step_run import StepRun
from swarm.errors import BadResult, Busy, HopLost, HopRefused, HopTimeout, SwarmError
from swarm.types import Hop, PeerId
from swarm.wire import Cancel, Close, Error, Find, Found, Open, Opened, Result, Row, Step
from swarm.wire.codecs import encode_tensor
from swarm.wire.encoding import error_of
from swarm.wire.limits import HASH_BYTES
from swarm.wire.messages import NO_LINEAGE
from tests.fake_wire import End, settle

QUICK = ClientConfig(initial_peers=("x",), chunk_tokens=4, timeouts=Timeouts(open=0.05, step=0.2))
PATIENT = replace(QUICK, timeouts=Timeouts(open=20.0, step=20.0))
NAMES = ("first", "middle", "last")


class Bench:
    """A session of three hops of ten blocks each, activations two wide, chunks of four tokens."""

    def __init__(self, config: ClientConfig = PATIENT) -> None:
        self.ends = [End(name) for name in NAMES]
        hops = [Hop(PeerId(name), 10 * index, 10 * index + 10) for index, name in enumerate(NAMES)]
        legs = [Leg(hop, end.as_channel(), (f"/{end.remote}",)) for hop, end in zip(hops, self.ends, strict=True)]
        model = Model(name="m", fingerprint="f", hidden_size=2)
        self.session = Session(legs, model, "float32", config)

    def open(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.session.open())

    async def opened(self) -> Bench:
        opening = self.open()
        await settle()
        for index in range(3):
            self.answer(index, Opened(self.session.session_id))
        await opening
        return self

    def answer(self, index: int, message: Any, body: bytes = b"") -> None:
        self.session.received(self.ends[index].as_channel(), message, bytearray(body))

    def result(self, step: int, tokens: Tensor, *, hop: int = 2) -> None:
        message = Result(self.session.session_id, step, "float32", len(tokens))
        self.answer(hop, message, bytes(encode_tensor(tokens, "float32")))

    def fail(self, step: int, error: SwarmError, *, hop: int = 2) -> None:
        self.answer(hop, error_of(error, session=self.session.session_id, step=step))

    async def step(self, rows: list[Row], hidden: Tensor) -> asyncio.Task[Tensor]:
        task = asyncio.create_task(StepRun(self.session, rows, hidden).go_on())
        await settle()
        return task

    @property
    def steps(self) -> list[Step]:
        return self.ends[0].messages(Step)


def tokens(count: int) -> Tensor:
    return torch.arange(2.0 * count).view(count, 2)


async def test_each_hop_is_told_its_blocks_and_its_next_hop() -> None:
    bench = await Bench().opened()
    opens = [end.messages(Open)[0] for end in bench.ends]
    assert [(m.start, m.end, m.next_peer, m.next_addrs) for m in opens] == [
        (0, 10, "middle", ("/middle",)),
        (10, 20, "last", ("/last",)),
        (20, 30, "", ()),
    ]
    assert len({m.session for m in opens}) == 1


async def test_a_hop_that_refuses_is_named() -> None:
    bench = Bench()
    opening = bench.open()
    await settle()
    bench.answer(0, Opened(bench.session.session_id))
    bench.fail(0, HopRefused("serves 0:3"), hop=1)
    with pytest.raises(HopUnusable, match="serves 0:3") as caught:
        await opening
    assert caught.value.peer == "middle" and isinstance(caught.value.error, HopRefused)


async def test_a_hop_lost_while_opening_is_named_and_not_one_that_has_not_answered_yet() -> None:
    bench = Bench()
    opening = bench.open()
    await settle()
    bench.session.lost(bench.ends[2].as_channel(), None)
    with pytest.raises(HopUnusable) as caught:
        await opening
    assert caught.value.peer == "last"


async def test_a_hop_that_does_not_answer_in_time_is_named() -> None:
    bench = Bench(QUICK)
    opening = bench.open()
    await settle()
    bench.answer(0, Opened(bench.session.session_id))
    bench.answer(2, Opened(bench.session.session_id))
    with pytest.raises(HopUnusable, match="no answer") as caught:
        await opening
    assert caught.value.peer == "middle"


async def test_a_channel_that_is_closed_already_is_an_unusable_hop() -> None:
    bench = Bench()
    bench.ends[1].is_open = False
    with pytest.raises(HopUnusable) as caught:
        await bench.open()
    assert caught.value.peer == "middle"


async def test_a_step_goes_to_the_first_hop_only_and_names_the_others() -> None:
    bench = await Bench().opened()
    task = await bench.step([Row(0, 0, 0, 3, 1)], tokens(3))
    assert [step.route for step in bench.steps] == [("middle", "last")]
    assert not bench.ends[1].messages(Step) and not bench.ends[2].messages(Step)
    bench.result(bench.steps[0].step, tokens(1))
    assert torch.equal(await task, tokens(1))
    assert bench.session.num_results == 1 and bench.session.timings[0].tokens == 3


async def test_results_of_chunks_may_come_in_any_order() -> None:
    bench = await Bench().opened()
    rows = [Row(0, 0, 0, 5, 5), Row(1, 1, 0, 5, 2)]
    task = await bench.step(rows, tokens(10))
    assert [sum(row.length for row in step.rows) for step in bench.steps] == [4, 4, 2]
    kept = [tokens(10)[:4], torch.cat([tokens(10)[4:5], tokens(10)[:0]]), tokens(10)[8:10]]
    for index in (2, 0, 1):
        bench.result(bench.steps[index].step, kept[index])
    assert torch.equal(await task, torch.cat([tokens(10)[:5], tokens(10)[8:10]]))


async def test_an_error_for_a_middle_chunk_fails_the_step_and_the_next_step_is_not_disturbed() -> None:
    bench = await Bench().opened()
    task = await bench.step([Row(0, 0, 0, 12, 1)], tokens(12))
    first, second, third = (step.step for step in bench.steps)
    bench.result(first, tokens(0))
    bench.fail(second, Busy("no pages", retry_after=2.0), hop=1)
    with pytest.raises(Busy, match=r"hop 10:20@middle: no pages") as caught:
        await task
    assert caught.value.retry_after == 2.0
    again = await bench.step([Row(0, 0, 0, 1, 1)], tokens(1))
    bench.fail(third, HopRefused("an answer about a step given up"), hop=1)
    bench.result(third, tokens(1))
    bench.result(bench.steps[-1].step, tokens(1))
    assert torch.equal(await again, tokens(1))


async def test_an_error_about_the_whole_session_fails_what_is_under_way() -> None:
    bench = await Bench().opened()
    task = await bench.step([Row(0, 0, 0, 1, 1)], tokens(1))
    bench.fail(0, HopLost("lost the link to last"), hop=1)
    with pytest.raises(HopLost, match="lost the link"):
        await task
    assert bench.session.is_usable


@pytest.mark.parametrize(
    ("returned", "kind"),
    [
        (torch.tensor([[1.0, torch.nan]]), BadResult),
        (torch.tensor([[torch.inf, 1.0]]), BadResult),
        (tokens(2), BadResult),
        (tokens(0), BadResult),
    ],
)
async def test_results_of_the_wrong_size_or_without_finite_numbers_are_refused(
    returned: Tensor, kind: type[SwarmError]
) -> None:
    bench = await Bench().opened()
    task = await bench.step([Row(0, 0, 0, 3, 1)], tokens(3))
    bench.result(bench.steps[0].step, returned)
    with pytest.raises(kind, match=r"20:30@last"):
        await task


async def test_results_in_another_codec_or_with_a_short_body_are_refused() -> None:
    for codec, body in (("float16", b"1234"), ("float32", b"1234")):
        bench = await Bench().opened()
        task = await bench.step([Row(0, 0, 0, 3, 1)], tokens(3))
        bench.answer(2, Result(bench.session.session_id, bench.steps[0].step, codec, 1), body)
        with pytest.raises(BadResult):
            await task


async def test_only_the_last_hop_gives_results() -> None:
    bench = await Bench().opened()
    task = await bench.step([Row(0, 0, 0, 1, 1)], tokens(1))
    bench.result(bench.steps[0].step, torch.full((1, 2), 9.0), hop=0)
    bench.result(bench.steps[0].step, tokens(1))
    assert torch.equal(await task, tokens(1))


async def test_a_lost_channel_fails_the_step_under_way_and_all_later_ones() -> None:
    bench = await Bench().opened()
    task = await bench.step([Row(0, 0, 0, 1, 1)], tokens(1))
    bench.session.lost(bench.ends[1].as_channel(), HopTimeout("silent"))
    for step in (task, StepRun(bench.session, [Row(0, 0, 0, 1, 1)], tokens(1)).go_on()):
        with pytest.raises(HopLost, match=r"lost hop 10:20@middle: silent"):
            await step
    assert bench.session.wants_mending and isinstance(bench.session.broken, HopLost)


async def test_a_step_without_a_result_in_time_names_the_route() -> None:
    bench = await Bench(replace(PATIENT, timeouts=QUICK.timeouts)).opened()
    with pytest.raises(HopTimeout, match=r"0:10@first -> 10:20@middle -> 20:30@last"):
        await StepRun(bench.session, [Row(0, 0, 0, 1, 1)], tokens(1)).go_on()


async def test_a_cancelled_step_raises_the_epoch_and_tells_every_hop() -> None:
    bench = await Bench().opened()
    task = await bench.step([Row(0, 0, 0, 1, 1)], tokens(1))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [end.messages(Cancel) for end in bench.ends] == [[Cancel(bench.session.session_id, 1)]] * 3
    again = await bench.step([Row(0, 0, 0, 1, 1)], tokens(1))
    assert [step.epoch for step in bench.steps] == [0, 1]
    bench.result(bench.steps[0].step, torch.full((1, 2), 9.0))  # the cancelled one, too late
    bench.result(bench.steps[1].step, tokens(1))
    assert torch.equal(await again, tokens(1))


async def test_closing_tells_every_hop_and_ends_the_step_under_way() -> None:
    bench = await Bench().opened()
    task = await bench.step([Row(0, 0, 0, 1, 1)], tokens(1))
    bench.ends[1].is_open = False
    bench.session.close()
    assert [len(end.messages(Close)) for end in bench.ends] == [1, 0, 1]
    with pytest.raises(HopLost, match="closed"):
        await task


async def test_errors_keep_their_kind_on_the_way() -> None:
    bench = await Bench().opened()
    task = await bench.step([Row(0, 0, 0, 1, 1)], tokens(1))
    bench.answer(2, Error(bench.session.session_id, bench.steps[0].step, 12345, "from the future"))
    with pytest.raises(SwarmError, match="from the future"):
        await task


async def test_each_hop_is_told_the_length_of_the_route_the_priority_and_its_own_lineage() -> None:
    bench = await Bench(replace(PATIENT, priority=3)).opened()
    opens = [end.messages(Open)[0] for end in bench.ends]
    assert [(m.num_hops, m.priority) for m in opens] == [(3, 3)] * 3
    lineages = {m.lineage for m in opens}
    assert len(lineages) == 3 and NO_LINEAGE not in lineages


def opening_with(bench: Bench, wanted: Wanted) -> asyncio.Task[None]:
    return asyncio.create_task(bench.session.open([wanted]))


async def test_a_session_begins_with_what_every_hop_still_holds() -> None:
    bench = Bench()
    opening = opening_with(bench, Wanted(0, bytes(5 * HASH_BYTES)))
    await settle()
    kinds = [[type(message) for message, _ in end.sent] for end in bench.ends]
    assert kinds == [[Open, Find]] * 3, "asked right behind the opening, all at once"
    for index, tokens in enumerate((80, 32, 48)):
        bench.answer(index, Opened(bench.session.session_id))
        bench.answer(index, Found(bench.session.session_id, 0, tokens))
    await opening
    assert bench.session.held == {0: 32} and bench.session.num_prefix_tokens == 32


async def test_a_session_is_not_open_before_every_hop_has_said_what_it_holds() -> None:
    bench = Bench(QUICK)
    opening = opening_with(bench, Wanted(0, bytes(HASH_BYTES)))
    await settle()
    for index in range(3):
        bench.answer(index, Opened(bench.session.session_id))
    bench.answer(0, Found(bench.session.session_id, 0, 0))
    with pytest.raises(HopUnusable, match="no answer") as caught:
        await opening
    assert caught.value.peer == "middle"


async def test_a_hop_that_found_more_than_was_asked_is_not_used() -> None:
    bench = Bench()
    opening = opening_with(bench, Wanted(0, bytes(2 * HASH_BYTES)))
    await settle()
    bench.answer(1, Found(bench.session.session_id, 0, 48))
    with pytest.raises(HopUnusable, match="more than was asked") as caught:
        await opening
    assert caught.value.peer == "middle" and isinstance(caught.value.error, BadResult)


async def test_chunks_carry_the_hashes_of_the_pages_that_they_fill() -> None:
    bench = await Bench().opened()
    hashes = extend_hashes((), range(40))
    bench.session.config = replace(PATIENT, chunk_tokens=20)
    task = asyncio.create_task(StepRun(bench.session, [Row(0, 0, 0, 40, 0)], tokens(40), [hashes]).go_on())
    await settle()
    assert [step.marks for step in bench.steps] == [hashes[0], hashes[1]]
    for step in bench.steps:
        bench.result(step.step, tokens(0))
    await task
