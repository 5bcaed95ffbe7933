"""Moving: who may leave a span for another, and that nobody relies on one who leaves."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.planning import Outlook
from swarm.planning.moving import may_move, next_span
from swarm.types import PeerId, Reach, ServerRecord, ServerState, Span
from tests.planning.views import record, view

NUM_BLOCKS = 8
TTL = 60.0
ONLINE, JOINING, DRAINING = ServerState.ONLINE, ServerState.JOINING, ServerState.DRAINING


def outlook(*records: ServerRecord) -> Outlook:
    return Outlook.of(view(*records), num_blocks=NUM_BLOCKS, ttl=TTL)


def wanting(name: str, span: Span, wanted: Span, since: float) -> ServerRecord:
    return record(name, span.start, span.end, next_span=wanted, since=since)


@st.composite
def swarms(draw: st.DrawFn) -> list[ServerRecord]:
    """Servers of which some want to move, to where the rule sends them or anywhere else."""
    records = []
    for index in range(draw(st.integers(1, 8))):
        size = draw(st.integers(1, NUM_BLOCKS))
        start = draw(st.integers(0, NUM_BLOCKS - size))
        changes = {
            "decode_per_s": draw(st.sampled_from([0.0, 10.0, 100.0, 300.0])),
            "since": draw(st.sampled_from([1.0, 2.0, 3.0])),
            "state": draw(st.sampled_from([ONLINE] * 6 + [JOINING, DRAINING])),
            "reach": draw(st.sampled_from([Reach.DIRECT] * 6 + [Reach.UNREACHABLE])),
            "expires_at": draw(st.sampled_from([1e9] * 6 + [10.0])),
        }
        server = record(f"p{index}", start, start + size, **changes)
        if draw(st.booleans()):
            wanted = draw(st.integers(0, NUM_BLOCKS - size))
            server = replace(server, next_span=Span(wanted, wanted + size))
        records.append(server)
    seen = outlook(*records)
    return [
        replace(server, next_span=next_span(seen, server) or server.next_span)
        if server.state is ONLINE and draw(st.booleans())
        else server
        for server in records
    ]


def held(records: list[ServerRecord]) -> set[int]:
    serving = (r for r in records if r.state is ONLINE and r.reach is not Reach.UNREACHABLE)
    return {block for server in serving for block in range(server.span.start, server.span.end)}


@settings(max_examples=600)
@given(swarms())
def test_all_who_may_move_can_leave_at_once_and_no_block_is_without_a_server_then(records: list[ServerRecord]) -> None:
    seen = outlook(*records)
    leaving = {r.peer for r in records if r.state is ONLINE and may_move(seen, r)}
    before, after = held(records), held([r for r in records if r.peer not in leaving])
    if len(before) == NUM_BLOCKS:
        assert before == after


@settings(max_examples=300)
@given(swarms(), st.booleans())
def test_a_move_into_a_hole_leaves_fewer_holes(records: list[ServerRecord], is_desperate: bool) -> None:
    seen = outlook(*records)
    for mine in records:
        if mine.state is not ONLINE or mine.reach is Reach.UNREACHABLE or mine.next_span is not None:
            continue
        wanted = next_span(seen, mine, is_desperate=is_desperate)
        if wanted is not None and seen.levels.num_holes:
            moved = outlook(*(replace(r, span=wanted, digests=()) if r is mine else r for r in records))
            assert moved.levels.num_holes <= seen.levels.num_holes


@settings(max_examples=300)
@given(swarms())
def test_who_has_moved_does_not_want_to_go_back(records: list[ServerRecord]) -> None:
    seen = outlook(*records)
    for mine in records:
        if mine.state is ONLINE and mine.reach is not Reach.UNREACHABLE and mine.next_span is None:
            wanted = next_span(seen, mine)
            if wanted is not None:
                moved = replace(mine, span=wanted)
                again = next_span(outlook(*(moved if r is mine else r for r in records)), moved)
                assert again != mine.span


def test_a_server_whose_blocks_others_hold_fills_a_hole() -> None:
    a, b, c = record("a", 0, 4), record("b", 0, 4), record("c", 4, 6)
    assert next_span(outlook(a, b, c), b, is_settled=False) == Span(4, 8)
    assert next_span(outlook(a, b, c), c, is_settled=False) is None  # it would open as many as it fills


def test_a_hole_that_somebody_is_about_to_fill_draws_nobody() -> None:
    a, b, c = record("a", 0, 4), record("b", 0, 4), record("c", 4, 8, state=JOINING, since=-1.0)
    assert next_span(outlook(a, b, c), b) is None
    going = wanting("d", Span(0, 4), Span(4, 8), 1.0)
    assert next_span(outlook(a, b, going), b) is None
    assert next_span(outlook(a, b, replace(going, state=DRAINING)), b) is None


def test_of_two_who_rely_on_each_other_only_the_first_may_go() -> None:
    first, second = wanting("z", Span(0, 4), Span(4, 8), 1.0), wanting("a", Span(0, 4), Span(4, 8), 2.0)
    seen = outlook(first, second)
    assert may_move(seen, first) and not may_move(seen, second)
    equal = replace(second, since=1.0)
    assert may_move(outlook(first, equal), equal) and not may_move(outlook(first, equal), first)


def test_nobody_relies_on_a_server_that_missed_a_refresh_or_has_not_loaded() -> None:
    mine = wanting("a", Span(0, 4), Span(4, 8), 1.0)
    there, volunteer = record("b", 0, 4), record("c", 5, 6)
    spare = record("d", 5, 6)
    assert may_move(outlook(mine, there, volunteer, spare), mine)
    for unreliable in (replace(there, expires_at=29.0), replace(there, state=JOINING)):
        assert not may_move(outlook(mine, unreliable, volunteer, spare), mine)


def test_without_anybody_to_spare_a_swarm_with_a_hole_gives_up_the_lesser_part() -> None:
    small, large = record("a", 0, 2), record("b", 2, 4)
    seen = outlook(small, large)
    assert next_span(seen, small) is None  # it would leave as many as it fills
    overlapping = record("c", 1, 4)
    assert next_span(outlook(large, overlapping, record("d", 0, 1)), overlapping, is_settled=False) == Span(4, 7)


def test_others_who_could_fill_a_hole_safely_are_waited_for_but_not_for_ever() -> None:
    mine, left, right = record("a", 0, 3), record("b", 1, 4), record("c", 0, 1)
    stuck = [record("d", 3, 4), record("e", 3, 4)]  # either could go; perhaps their owners chose their spans
    seen = outlook(mine, left, right, *stuck)
    lone = record("f", 0, 2)
    assert next_span(seen, mine) == Span(4, 7)
    sole = outlook(lone, record("g", 1, 4), *stuck)
    assert next_span(sole, lone) is None
    assert next_span(sole, lone, is_desperate=True) == Span(4, 6)


def test_the_weakest_blocks_draw_a_settled_server_from_where_many_are() -> None:
    rich = [record(f"r{index}", 0, 4, decode_per_s=400.0) for index in range(3)]
    poor = record("p", 4, 8, decode_per_s=400.0)
    seen = outlook(*rich, poor)
    assert next_span(seen, rich[0]) == Span(4, 8)
    assert next_span(seen, rich[0], is_settled=False) is None
    assert next_span(seen, poor) is None


def test_nobody_moves_in_a_swarm_that_is_even() -> None:
    even = [record(f"p{index}", 4 * (index % 2), 4 * (index % 2) + 4) for index in range(6)]
    assert all(next_span(outlook(*even), server) is None for server in even)


def test_a_wish_is_given_up_when_those_before_us_have_made_it_needless() -> None:
    rich = [record(f"r{index}", 0, 4, decode_per_s=400.0) for index in range(2)]
    poor = record("p", 4, 8, decode_per_s=400.0)
    mine, other = wanting("m", Span(0, 4), Span(4, 8), 2.0), wanting("o", Span(0, 4), Span(4, 8), 1.0)
    mine, other = replace(mine, decode_per_s=400.0), replace(other, decode_per_s=400.0)
    assert may_move(outlook(*rich, poor, mine), mine)
    assert may_move(outlook(*rich, poor, mine, other), other)
    assert not may_move(outlook(*rich, poor, mine, other), mine)


def test_the_outlook_without_a_server_is_that_of_the_others() -> None:
    records = [record("a", 0, 4), wanting("b", Span(2, 6), Span(4, 8), 1.0), record("c", 1, 8, decode_per_s=0.0)]
    seen = outlook(*records)
    for gone in records:
        rest = outlook(*(r for r in records if r is not gone))
        levels = seen.without(gone.peer)
        assert levels.num_expected == rest.levels.num_expected and levels.num_held == rest.levels.num_held
    assert seen.without(PeerId("nobody")).expected == seen.levels.expected
