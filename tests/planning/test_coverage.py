"""Coverage: which blocks are held, and how fast."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.planning import coverage, format_spans, missing_spans
from swarm.planning.coverage import EXPECTED
from swarm.types import Reach, ServerState, Span
from tests.planning.views import record, view


def test_coverage_adds_the_throughput_of_whole_spans() -> None:
    seen = view(record("a", 0, 2, decode_per_s=100.0), record("b", 1, 5, decode_per_s=100.0))
    assert coverage(seen, 6) == pytest.approx((50.0, 75.0, 25.0, 25.0, 25.0, 0.0))


def test_coverage_counts_servers_that_join_only_when_asked_to() -> None:
    seen = view(record("a", 0, 1, state=ServerState.JOINING), record("b", 0, 1, state=ServerState.DRAINING))
    assert coverage(seen, 1) == (0.0,)
    assert coverage(seen, 1, states=EXPECTED) == (1000.0,)


def test_a_span_beyond_the_model_counts_within_it_only() -> None:
    assert coverage(view(record("a", 1, 5)), 2) == (0.0, 250.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 10)), max_size=5), st.integers(0, 9), st.integers(1, 10))
def test_missing_spans_are_exactly_the_blocks_that_nobody_holds(
    spans: list[tuple[int, int]], start: int, length: int
) -> None:
    records = [record(f"p{index}", first, first + size) for index, (first, size) in enumerate(spans)]
    wanted = Span(start, start + length)
    missing = missing_spans(view(*records), wanted)
    blocks = [block for span in missing for block in range(span.start, span.end)]
    assert blocks == [b for b in range(wanted.start, wanted.end) if not any(b in r.span for r in records)]
    assert all(before.end < after.start for before, after in pairwise(missing))


def test_blocks_of_excluded_and_leaving_servers_are_missing() -> None:
    seen = view(record("a", 0, 5), record("b", 5, 8, state=ServerState.DRAINING), record("c", 8, 10))
    assert missing_spans(seen, Span(0, 10), excluded={"c"}) == (Span(5, 10),)


def test_what_an_unreachable_server_holds_counts_for_nothing() -> None:
    seen = view(record("a", 0, 5), record("b", 5, 8, reach=Reach.UNREACHABLE), record("c", 8, 10, reach=Reach.RELAYED))
    assert missing_spans(seen, Span(0, 10)) == (Span(5, 8),)
    assert [amount > 0 for amount in coverage(seen, 10)] == [True] * 5 + [False] * 3 + [True] * 2


def test_spans_are_written_as_a_person_reads_them() -> None:
    assert format_spans([Span(0, 10), Span(20, 30)]) == "0:10, 20:30"
    assert format_spans([]) == ""
