"""Where the time went: medians of the decode steps, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swarm.client.explain import StepTiming, advice_text, explain
from swarm.planning import Costs, advise
from swarm.types import Hop, PeerId
from swarm.wire import Timing
from tests.planning.views import record, view

HOPS = (Hop(PeerId("12D3KooWfirst"), 0, 10), Hop(PeerId("12D3KooWlast"), 10, 30))


def step(seconds: float, *hops: tuple[int, int, int], tokens: int = 1) -> StepTiming:
    return StepTiming(tokens, seconds, tuple(Timing(*hop) for hop in hops))


def test_only_the_smallest_steps_count() -> None:
    steps = [
        step(9.0, (1000, 800_000, 900_000), (0, 1, 1), tokens=500),
        step(0.010, (1000, 2000, 3500), (0, 4000, 4000)),
        step(0.012, (1000, 4000, 5500), (0, 4000, 4000)),
        step(0.011, (1000, 3000, 4500), (0, 4000, 4000)),
    ]
    found = explain(HOPS, steps)
    assert found.num_steps == 3 and found.step == pytest.approx(0.011)
    first, last = found.hops
    assert (first.queue, first.compute, first.handling) == pytest.approx((0.001, 0.003, 0.0005))
    assert last.compute == pytest.approx(0.004)
    assert found.network == pytest.approx(0.0025)
    assert found.overhead_per_hop == pytest.approx((0.011 - 0.007) / 2)


def test_the_parts_add_up_to_the_step() -> None:
    found = explain(HOPS, [step(0.02, (1000, 2000, 4000), (500, 5000, 6000))])
    total = sum(times.network + times.queue + times.compute + times.handling for times in found.hops) + found.answer
    assert total == pytest.approx(found.step)


def test_the_network_is_shared_out_by_what_the_legs_should_take() -> None:
    found = explain(HOPS, [step(0.02, (1000, 2000, 4000), (500, 5000, 6000))], legs=(0.03, 0.06, 0.01))
    assert [*(times.network for times in found.hops), found.answer] == pytest.approx([0.003, 0.006, 0.001])


def test_the_advice_names_a_faster_route_and_the_hops_that_it_saves() -> None:
    servers = [record("first", 0, 10), record("last", 10, 30), record("all", 0, 30)]
    route = (Hop(PeerId("first"), 0, 10), Hop(PeerId("last"), 10, 30))
    near = Costs(to_client={PeerId("first"): 0.1, PeerId("last"): 0.1, PeerId("all"): 0.1})
    text = advice_text(advise(route, view(*servers), near))
    assert text.startswith("1 instead of 2 hops should be faster: ") and text.endswith(" by 0:30@all")
    far = replace(near, to_client={**near.to_client, PeerId("all"): 0.4})
    assert advice_text(advise(route, view(*servers), far)) == ""


def test_hops_whose_clocks_claim_more_than_the_step_took_leave_no_negative_network() -> None:
    assert step(0.001, (0, 5000, 5000)).network == 0.0


def test_without_steps_all_is_zero() -> None:
    found = explain(HOPS, ())
    assert (found.num_steps, found.step, found.network, found.overhead_per_hop) == (0, 0.0, 0.0, 0.0)
    assert [times.hop for times in found.hops] == list(HOPS)


def test_steps_that_do_not_name_every_hop_do_not_count() -> None:
    assert explain(HOPS, [step(0.01, (0, 1, 1))]).num_steps == 0


def test_it_prints_as_a_table_with_a_line_per_hop() -> None:
    lines = str(explain(HOPS, [step(0.02, (1000, 2000, 4000), (500, 5000, 6000))])).splitlines()
    assert len(lines) == 5
    assert "0:10" in lines[1] and "KooWfirst" in lines[1] and "2.00 ms" in lines[1]
    assert "10.00 ms" in lines[4] and "20.00 ms" in lines[4]
