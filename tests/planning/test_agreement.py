"""Agreement: servers with different checkpoints are told apart."""

from __future__ import annotations

import time
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from swarm.planning import agree
from swarm.types import ServerRecord
from tests.planning.views import record, view


def test_the_fingerprint_that_most_announce_is_taken_when_none_is_asked_for() -> None:
    first, second, other = record("a", 0, 5), record("b", 5, 9), record("c", 0, 9, fingerprint="another")
    agreement = agree(view(other, first, second))
    assert agreement.view.records == (first, second)
    assert agreement.others == (other,)


def test_the_fingerprint_asked_for_wins_over_the_majority() -> None:
    wanted = record("c", 0, 9, fingerprint="another")
    agreement = agree(view(record("a", 0, 5), record("b", 5, 9), wanted), "another")
    assert agreement.view.records == (wanted,)


def test_whoever_differs_in_a_block_that_most_hold_otherwise_is_out() -> None:
    good, also_good, bad = record("a", 0, 3), record("b", 2, 5), record("c", 2, 3, digests=("x",))
    agreement = agree(view(bad, good, also_good))
    assert agreement.view.records == (good, also_good)
    assert agreement.others == (bad,)


def test_nobody_at_all_agrees_with_nobody() -> None:
    assert agree(view()).view.records == ()
    assert agree(view(record("a", 0, 1)), "unknown").view.records == ()


@st.composite
def records_of_few_checkpoints(draw: st.DrawFn) -> list[ServerRecord]:
    records = []
    for name in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, 3))
        end = draw(st.integers(start + 1, 4))
        digests = tuple(draw(st.sampled_from(["x", "y"])) for _ in range(start, end))
        records.append(record(f"p{name}", start, end, digests=digests, fingerprint=draw(st.sampled_from("fg"))))
    return records


@given(records_of_few_checkpoints(), st.randoms(use_true_random=False))
def test_the_servers_kept_never_contradict_and_do_not_depend_on_the_order(
    records: list[ServerRecord], shuffler: Random
) -> None:
    agreement = agree(view(*records))
    known: dict[int, str] = {}
    for kept in agreement.view.records:
        for block, digest in zip(range(kept.span.start, kept.span.end), kept.digests, strict=True):
            assert known.setdefault(block, digest) == digest
    assert len({kept.fingerprint for kept in agreement.view.records}) <= 1
    assert len(agreement.view.records) + len(agreement.others) == len(records)
    shuffler.shuffle(records)
    again = agree(view(*records))
    assert set(again.view.records) == set(agreement.view.records)


def test_ten_thousand_records_are_compared_in_a_moment() -> None:
    records = [record(f"p{index}", index % 70, index % 70 + 10) for index in range(10_000)]
    started = time.process_time()
    assert len(agree(view(*records)).view.records) == 10_000
    assert time.process_time() - started < 1.0
