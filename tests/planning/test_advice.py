"""Advice: what a route costs part by part, when fewer hops are faster, when a session should move."""

from __future__ import annotations

import pytest

from swarm.planning import Costs, advise, worth_moving
from swarm.planning.advice import replay_seconds
from swarm.planning.routing import route_cost
from swarm.types import Hop, PeerId
from tests.planning.views import record, view

A, B, WHOLE = PeerId("a"), PeerId("b"), PeerId("whole")
SPLIT = (Hop(A, 0, 5), Hop(B, 5, 10))


def test_the_parts_of_the_current_route_add_up_to_its_cost() -> None:
    seen, costs = view(record("a", 0, 5, load=2), record("b", 5, 10)), Costs(to_client={A: 0.02})
    advice = advise(SPLIT, seen, costs)
    parts = [(part.arrival, part.queue, part.compute) for part in advice.current.hops]
    assert advice.current.total == pytest.approx(sum(map(sum, parts)) + advice.current.answer)
    assert advice.current.total == pytest.approx(route_cost(SPLIT, seen, costs))
    assert advice.best == advice.current and advice.fewer is None and advice.saved_by_fewer == 0.0


def test_fewer_hops_are_advised_where_they_are_faster() -> None:
    seen = view(record("a", 0, 5), record("b", 5, 10), record("whole", 0, 10))
    advice = advise(SPLIT, seen, Costs())
    assert advice.fewer is not None and [part.hop for part in advice.fewer.hops] == [Hop(WHOLE, 0, 10)]
    assert advice.saved_by_fewer == pytest.approx(0.025 + 0.001)


def test_fewer_hops_that_are_slower_are_told_and_save_nothing() -> None:
    seen = view(record("a", 0, 5), record("b", 5, 10), record("whole", 0, 10, decode_per_s=20.0))
    advice = advise(SPLIT, seen, Costs())
    assert advice.best == advice.current
    assert advice.fewer is not None and advice.fewer.total > advice.current.total and advice.saved_by_fewer == 0.0


def test_a_session_moves_for_a_saving_that_repays_its_replay() -> None:
    seen = view(record("a", 0, 5, decode_per_s=50.0), record("b", 5, 10), record("whole", 0, 10, prefill_per_s=1000.0))
    best = (Hop(WHOLE, 0, 10),)
    assert replay_seconds(SPLIT, best, seen, Costs(), tokens=100) == pytest.approx(1.0 + 0.025)
    assert worth_moving(SPLIT, best, seen, Costs(), tokens_held=100, tokens_expected=200)
    assert not worth_moving(SPLIT, best, seen, Costs(), tokens_held=100, tokens_expected=10)
    assert not worth_moving(SPLIT, best, seen, Costs(), tokens_held=10_000, tokens_expected=200)


def test_a_session_does_not_move_for_a_small_share_of_its_step() -> None:
    seen = view(record("a", 0, 10, decode_per_s=100.0), record("b", 0, 10, decode_per_s=110.0))
    old, new = (Hop(A, 0, 10),), (Hop(B, 0, 10),)
    assert not worth_moving(old, new, seen, Costs(), tokens_held=0, tokens_expected=10**9)
    assert not worth_moving(new, old, seen, Costs(), tokens_held=0, tokens_expected=10**9)


def test_hops_that_stay_replay_nothing() -> None:
    seen = view(record("a", 0, 5), record("b", 5, 10), record("whole", 5, 10, prefill_per_s=1000.0))
    best = (SPLIT[0], Hop(WHOLE, 5, 10))
    assert replay_seconds(SPLIT, best, seen, Costs(), tokens=100) == pytest.approx(0.5 + 0.025)
    assert replay_seconds(SPLIT, SPLIT, seen, Costs(), tokens=100) == 0.0
