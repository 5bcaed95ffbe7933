"""Routing against a search of all routes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.planning import Costs, find_route
from swarm.planning.routing import predict, route_cost
from swarm.types import Hop, PeerId, Reach, ServerState, Span, View
from tests.planning.views import record, view

NUM_BLOCKS = 5
NAMES = ("a", "b", "c", "d")


def all_routes(seen: View, start: int, end: int, used: frozenset[PeerId] = frozenset()) -> Iterator[tuple[Hop, ...]]:
    """Every chain of hops over [start, end) that uses no server twice."""
    if start == end:
        yield ()
    for server in seen.records:
        if server.peer in used or server.state is not ServerState.ONLINE or server.reach is Reach.UNREACHABLE:
            continue
        for stop in range(start + 1, min(server.span.end, end) + 1):
            if start in server.span:
                for rest in all_routes(seen, stop, end, used | {server.peer}):
                    yield (Hop(server.peer, start, stop), *rest)


@st.composite
def swarms(draw: st.DrawFn) -> tuple[View, Costs, frozenset[PeerId]]:
    records = []
    for name in draw(st.sets(st.sampled_from(NAMES), max_size=4)):
        start = draw(st.integers(0, NUM_BLOCKS - 1))
        records.append(
            record(
                name,
                start,
                draw(st.integers(start + 1, NUM_BLOCKS)),
                decode_per_s=draw(st.sampled_from([5.0, 20.0, 100.0, 1000.0])),
                load=draw(st.sampled_from([0, 0, 1])),
                free_pages=draw(st.sampled_from([0, 32, 100])),
                reach=draw(st.sampled_from([Reach.UNKNOWN, Reach.DIRECT, Reach.RELAYED, Reach.UNREACHABLE])),
                state=draw(st.sampled_from([ServerState.ONLINE] * 5 + [ServerState.DRAINING, ServerState.JOINING])),
            )
        )
    times = st.sampled_from([0.0, 0.001, 0.05, 0.4])
    peers = st.sampled_from([PeerId(name) for name in NAMES])
    costs = Costs(
        to_client=draw(st.dictionaries(peers, times)),
        between=draw(st.dictionaries(peers, st.dictionaries(peers, times))),
    )
    return view(*records), costs, draw(st.frozensets(peers, max_size=1))


ENDS = st.one_of(st.none(), st.sampled_from([PeerId(name) for name in (*NAMES, "elsewhere")]))


@settings(max_examples=250)
@given(swarms(), st.integers(0, NUM_BLOCKS - 1), st.integers(1, NUM_BLOCKS), ENDS, ENDS)
def test_the_route_found_costs_what_the_cheapest_of_all_routes_costs(
    swarm: tuple[View, Costs, frozenset[PeerId]],
    start: int,
    length: int,
    before: PeerId | None,
    after: PeerId | None,
) -> None:
    seen, costs, excluded = swarm
    span = Span(start, min(start + length, NUM_BLOCKS))
    allowed = view(*(server for server in seen.records if server.peer not in {*excluded, before, after}))
    found = find_route(seen, span, costs, excluded=excluded, before=before, after=after)
    routes = set(all_routes(allowed, span.start, span.end))
    best = min((route_cost(route, seen, costs, before=before, after=after) for route in routes), default=None)
    if best is None:
        assert found is None
    else:
        assert found in routes
        assert route_cost(found, seen, costs, before=before, after=after) == pytest.approx(best)


def test_a_server_is_not_visited_twice_even_where_that_would_be_fastest() -> None:
    slow_everywhere = record("slow", 0, 9, decode_per_s=10.0)
    fast_middle = record("fast", 3, 6, decode_per_s=1000.0)
    near = Costs(default_round_trip=0.001)
    route = find_route(view(slow_everywhere, fast_middle), Span(0, 9), near)
    assert route == (Hop(PeerId("slow"), 0, 9),)
    helped = view(slow_everywhere, fast_middle, record("end", 6, 9, decode_per_s=9.0))
    assert find_route(helped, Span(0, 9), near) == tuple(
        Hop(PeerId(name), start, end) for name, start, end in [("slow", 0, 3), ("fast", 3, 6), ("end", 6, 9)]
    )


def test_one_server_that_holds_everything_wins_over_an_equal_split() -> None:
    seen = view(record("whole", 0, 10), record("front", 0, 5), record("back", 5, 10))
    assert find_route(seen, Span(0, 10), Costs()) == (Hop(PeerId("whole"), 0, 10),)


def test_a_busy_server_is_left_for_an_idle_one() -> None:
    seen = view(record("busy", 0, 10, load=20), record("idle", 0, 10))
    assert find_route(seen, Span(0, 10), Costs()) == (Hop(PeerId("idle"), 0, 10),)


def test_announced_round_trips_choose_the_next_hop() -> None:
    seen = view(record("front", 0, 5), record("far", 5, 10), record("near", 5, 10))
    between = {(PeerId("front"), PeerId("near")): 0.002, (PeerId("front"), PeerId("far")): 0.3}
    route = find_route(
        seen, Span(0, 10), Costs(between={before: {after: seconds} for (before, after), seconds in between.items()})
    )
    assert [hop.peer for hop in route or ()] == ["front", "near"]


def test_there_is_no_route_when_a_block_has_no_server() -> None:
    seen = view(record("front", 0, 5), record("back", 6, 10), record("leaving", 5, 6, state=ServerState.DRAINING))
    assert find_route(seen, Span(0, 10), Costs()) is None
    assert find_route(view(), Span(0, 1), Costs()) is None
    assert find_route(seen, Span(0, 5), Costs(), excluded={"front"}) is None


def test_the_order_of_the_records_does_not_change_the_route() -> None:
    records = [record(name, 0, 10) for name in "dbca"]
    assert {find_route(view(*records[i:], *records[:i]), Span(0, 10), Costs()) for i in range(4)} == {
        (Hop(PeerId("a"), 0, 10),)
    }


def large_view(num_servers: int, num_blocks: int) -> View:
    random_state = random.Random(0)
    records = []
    for index in range(num_servers):
        length = random_state.randint(4, 24)
        start = random_state.randint(0, num_blocks - length)
        speed = random_state.choice([200.0, 1000.0, 8000.0])
        records.append(record(f"p{index}", start, start + length, decode_per_s=speed, load=random_state.randint(0, 3)))
    return view(*records)


def test_ten_thousand_servers_are_routed_within_two_seconds() -> None:
    seen = large_view(10_000, 80)
    started = time.process_time()
    route = find_route(seen, Span(0, 80), Costs())
    assert time.process_time() - started < 2.0
    assert route is not None and [hop.start for hop in route] == [0, *(hop.end for hop in route)][:-1]


def test_records_made_to_be_hard_do_not_keep_us_thinking() -> None:
    # Many slow servers with everything, many fast ones with a single block: each shortest path returns again and again.
    slow = [record(f"s{index}", 0, 40, decode_per_s=10.0 + index) for index in range(20)]
    fast = [record(f"f{index}", index, index + 1, decode_per_s=1e6) for index in range(0, 40, 2)]
    started = time.process_time()
    route = find_route(view(*slow, *fast), Span(0, 40), Costs(default_round_trip=0.0001))
    assert time.process_time() - started < 2.0
    assert route is not None and len({hop.peer for hop in route}) == len(route) and route[-1].end == 40


def peers(route: tuple[Hop, ...] | None) -> list[str]:
    return [hop.peer for hop in route or ()]


def test_a_stretch_in_the_middle_is_near_to_those_between_whom_it_lies() -> None:
    seen = view(record("first", 0, 5), record("near", 5, 10), record("mine", 5, 10), record("last", 10, 15))
    first, last = PeerId("first"), PeerId("last")
    costs = Costs(
        to_client={PeerId("mine"): 0.001},
        between={first: {PeerId("near"): 0.01, PeerId("mine"): 0.08}, PeerId("near"): {last: 0.01}},
    )
    assert peers(find_route(seen, Span(5, 10), costs)) == ["mine"]
    assert peers(find_route(seen, Span(5, 10), costs, before=first, after=last)) == ["near"]
    parts = predict((Hop(PeerId("near"), 5, 10),), seen, costs, before=first, after=last)
    assert (parts.hops[0].arrival, parts.answer) == (0.005, 0.005)


def test_neither_end_of_a_stretch_takes_part_in_it() -> None:
    seen = view(record("first", 0, 10, decode_per_s=1e6), record("other", 5, 10))
    assert peers(find_route(seen, Span(5, 10), Costs(), before=PeerId("first"))) == ["other"]


def test_of_equal_servers_the_direct_one_is_taken_even_where_both_were_measured() -> None:
    seen = view(record("a", 0, 5, reach=Reach.RELAYED), record("b", 0, 5, reach=Reach.DIRECT))
    measured = Costs(to_client={PeerId("a"): 0.02, PeerId("b"): 0.02})
    assert peers(find_route(seen, Span(0, 5), measured)) == ["b"]
    assert peers(find_route(seen, Span(0, 5), Costs())) == ["b"]
    nearer = Costs(to_client={PeerId("a"): 0.01, PeerId("b"): 0.02})
    assert peers(find_route(seen, Span(0, 5), nearer)) == ["a"]


def test_a_relay_that_nobody_measured_costs_its_penalty() -> None:
    seen = view(record("a", 0, 5), record("b", 5, 10, reach=Reach.RELAYED))
    costs = Costs(default_round_trip=0.04, relay_penalty=0.06)
    hops = (Hop(PeerId("a"), 0, 5), Hop(PeerId("b"), 5, 10))
    parts = predict(hops, seen, costs)
    assert [part.arrival for part in parts.hops] == [0.02, 0.05] and parts.answer == 0.05
    assert route_cost(hops, seen, costs) == parts.total


def test_a_server_without_pages_is_taken_only_where_there_is_no_other() -> None:
    full, free = record("a", 0, 5, free_pages=0), record("b", 0, 5)
    assert peers(find_route(view(full, free), Span(0, 5), Costs())) == ["b"]
    assert peers(find_route(view(full), Span(0, 5), Costs())) == ["a"]


def test_our_own_measurement_of_a_server_counts_before_its_word() -> None:
    boaster, honest = record("a", 0, 5, decode_per_s=1e9), record("b", 0, 5, decode_per_s=500.0)
    assert peers(find_route(view(boaster, honest), Span(0, 5), Costs())) == ["a"]
    assert peers(find_route(view(boaster, honest), Span(0, 5), Costs(per_block={PeerId("a"): 0.1}))) == ["b"]


def test_the_larger_of_two_announced_round_trips_counts_both_ways_round() -> None:
    a, b, c = PeerId("a"), PeerId("b"), PeerId("c")
    seen = view(
        record("a", 0, 5, round_trips=((b, 0.0), (c, 0.01), (a, 0.5))),
        record("b", 5, 10, round_trips=((a, 0.03),)),
        record("c", 5, 10, round_trips=((b, -1.0),)),
    )
    costs = Costs.of(seen, {a: 0.004})
    assert costs.between[a] == {b: 0.03, c: 0.01} and costs.between[c][a] == 0.01
    assert costs.move(b, a) == 0.015 and 0 < costs.move(b, c) == costs.move(c, b)
    assert costs.leg(seen.records[0]) == 0.002
