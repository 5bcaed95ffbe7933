"""Placement: a new server goes where it is needed most."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.planning import choose_span, coverage
from swarm.planning.coverage import EXPECTED
from swarm.types import PeerId, ServerRecord, ServerState, Span, View
from tests.planning.views import record, view

NUM_BLOCKS = 8


@st.composite
def views(draw: st.DrawFn) -> View:
    records: list[ServerRecord] = []
    for name in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, NUM_BLOCKS - 1))
        end = draw(st.integers(start + 1, NUM_BLOCKS))
        state = draw(st.sampled_from([ServerState.ONLINE, ServerState.JOINING, ServerState.DRAINING]))
        speed = draw(st.sampled_from([10.0, 100.0]))
        records.append(record(f"p{name}", start, end, decode_per_s=speed, state=state))
    return view(*records)


@given(views(), st.integers(1, 20))
def test_the_span_is_within_the_model_and_of_the_size_asked_for(seen: View, size: int) -> None:
    span = choose_span(seen, num_blocks=NUM_BLOCKS, size=size)
    assert len(span) == min(size, NUM_BLOCKS) and span.end <= NUM_BLOCKS


@given(views(), st.integers(1, NUM_BLOCKS))
def test_no_other_window_holds_more_blocks_that_nobody_serves(seen: View, size: int) -> None:
    bare = [amount == 0 for amount in coverage(seen, NUM_BLOCKS, states=EXPECTED)]
    span = choose_span(seen, num_blocks=NUM_BLOCKS, size=size)
    filled = sum(bare[span.start : span.end])
    assert filled == max(sum(bare[first : first + size]) for first in range(NUM_BLOCKS - size + 1))


@given(views(), st.integers(1, NUM_BLOCKS))
def test_the_record_left_from_our_own_earlier_run_changes_nothing(seen: View, size: int) -> None:
    old = record("me", 0, NUM_BLOCKS, decode_per_s=1e6)
    with_old = view(*seen.records, old)
    mine = choose_span(with_old, num_blocks=NUM_BLOCKS, size=size, myself=PeerId("me"))
    assert mine == choose_span(seen, num_blocks=NUM_BLOCKS, size=size)


def test_servers_one_after_another_cover_an_empty_swarm() -> None:
    seen = view()
    for index in range(4):
        span = choose_span(seen, num_blocks=NUM_BLOCKS, size=2)
        seen = view(*seen.records, record(f"p{index}", span.start, span.end))
    assert sorted(server.span for server in seen.records) == [Span(0, 2), Span(2, 4), Span(4, 6), Span(6, 8)]


def test_the_weakest_stretch_is_doubled_once_all_is_covered() -> None:
    seen = view(record("a", 0, 4, decode_per_s=900.0), record("b", 4, 8, decode_per_s=100.0))
    assert choose_span(seen, num_blocks=NUM_BLOCKS, size=4) == Span(4, 8)
