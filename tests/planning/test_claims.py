"""Claims: servers that start at the same moment do not all choose the same blocks."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from swarm.planning import Outlook, choose_span
from swarm.planning.placement import settle
from swarm.types import ServerRecord, ServerState, Span
from tests.planning.views import record, view

NUM_BLOCKS = 30


def claims(sizes: list[int], since: float = 0.5) -> list[ServerRecord]:
    """Servers that all saw an empty swarm: the same blocks claimed by all."""
    return [
        record(f"p{index}", 0, size, state=ServerState.JOINING, since=since, decode_per_s=0.0)
        for index, size in enumerate(sizes)
    ]


def settled(records: list[ServerRecord]) -> list[ServerRecord]:
    seen = Outlook.of(view(*records), num_blocks=NUM_BLOCKS, ttl=60.0)
    return [replace(r, span=settle(seen, r)) if r.state is ServerState.JOINING else r for r in records]


@given(st.lists(st.integers(10, 12), min_size=6, max_size=6))
def test_six_who_start_at_the_same_moment_cover_the_model_after_one_look(sizes: list[int]) -> None:
    records = settled(claims(sizes))
    held = [sum(block in r.span for r in records) for block in range(NUM_BLOCKS)]
    assert min(held) >= 1 and max(held) <= 4
    assert settled(records) == records


@given(
    st.lists(st.integers(1, 40), max_size=8), st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10)), max_size=4)
)
def test_claims_come_out_as_if_they_had_been_made_one_after_another(
    sizes: list[int], servers: list[tuple[int, int]]
) -> None:
    online = [record(f"o{index}", start, start + size) for index, (start, size) in enumerate(servers)]
    wanted = claims([min(size, NUM_BLOCKS) for size in sizes])
    for each in settled([*online, *wanted])[len(online) :]:
        in_turn = choose_span(view(*online), num_blocks=NUM_BLOCKS, size=len(each.span))
        bare = [all(block not in r.span for r in online) for block in range(NUM_BLOCKS)]
        covered = sum(bare[each.span.start : each.span.end])
        assert covered == sum(bare[in_turn.start : in_turn.end])
        online.append(each)


def test_a_claim_that_is_as_good_as_another_is_kept() -> None:
    mine = record("m", 10, 20, state=ServerState.JOINING, since=0.5)
    assert settled([mine]) == [mine]
    earlier = record("e", 5, 15, state=ServerState.JOINING, since=0.4)
    assert settled([mine, earlier]) == [replace(mine, span=Span(15, 25)), earlier]


def test_who_claimed_long_ago_is_loading_and_keeps_what_it_claimed() -> None:
    loading = record("z", 0, 10, state=ServerState.JOINING, since=-100.0)
    mine = record("a", 0, 10, state=ServerState.JOINING, since=0.5)
    assert settled([loading, mine]) == [loading, replace(mine, span=Span(10, 20))]


def test_claims_of_servers_that_have_not_measured_themselves_count_as_much_as_others() -> None:
    fast = [record(f"f{index}", 0, 10, decode_per_s=1000.0) for index in range(2)]
    unknown = record("u", 10, 20, state=ServerState.JOINING, since=0.5, decode_per_s=0.0)
    assert choose_span(view(*fast, unknown), num_blocks=20, size=10) == Span(10, 20)
    assert choose_span(view(fast[0], unknown, replace(unknown, peer=fast[1].peer)), num_blocks=20, size=10) == Span(
        0, 10
    )
