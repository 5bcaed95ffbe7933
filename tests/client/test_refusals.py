"""Who did not take a session, and when he is asked again."""

from __future__ import annotations

import pytest

from swarm.client.refusals import MAX_JITTER, MIN_REST, Refusals, jittered
from swarm.errors import Busy, HopLost, HopRefused, PeerUnreachable
from swarm.types import PeerId

ONE, TWO = PeerId("one"), PeerId("two")


def test_a_hop_that_refused_is_left_out_for_good() -> None:
    refusals = Refusals(deadline=100.0, patience=8.0)
    refusals.add(ONE, HopRefused("another checkpoint"), 0.0)
    assert list(refusals.now(99.0)) == [ONE] and refusals.until(99.0) is None


def test_a_hop_that_was_not_there_is_asked_again_and_again_but_not_for_ever() -> None:
    refusals = Refusals(deadline=100.0, patience=8.0)
    assert refusals.patient_since is None
    refusals.add(ONE, PeerUnreachable("connection refused"), 10.0)
    assert refusals.patient_since == 10.0
    assert list(refusals.now(10.9)) == [ONE] and not refusals.now(11.1)
    refusals.add(ONE, HopLost("gone"), 12.0)
    assert list(refusals.now(13.9)) == [ONE] and not refusals.now(14.1)
    assert list(refusals.now(18.1)) == [ONE] and refusals.until(18.1) is None


def test_a_busy_hop_is_left_out_until_it_may_be_asked_again() -> None:
    refusals = Refusals(deadline=100.0, patience=8.0)
    refusals.add(ONE, Busy("full", retry_after=2.0), 10.0)
    until = refusals.until(10.0)
    assert until is not None and 12.0 <= until <= 12.0 + 2.0 * MAX_JITTER
    assert list(refusals.now(11.9)) == [ONE] and not refusals.now(until)
    assert refusals.until(until) is None


def test_the_first_of_several_busy_hops_is_waited_for() -> None:
    refusals = Refusals(deadline=100.0, patience=8.0)
    refusals.add(ONE, Busy("full", retry_after=50.0), 0.0)
    refusals.add(TWO, Busy("full", retry_after=1.0), 0.0)
    until = refusals.until(0.0)
    assert until is not None and until <= 1.5


def test_busy_is_what_is_told_once_the_next_try_would_be_too_late() -> None:
    refusals = Refusals(deadline=1.0, patience=8.0)
    refusals.add(ONE, Busy("40 sessions are open", retry_after=5.0), 0.0)
    with pytest.raises(Busy, match="40 sessions"):
        refusals.until(0.0)


def test_those_who_were_turned_away_together_come_back_apart() -> None:
    assert len({jittered(1.0) for _ in range(10)}) > 1
    assert all(1.0 <= jittered(1.0) <= 1.0 + MAX_JITTER for _ in range(100))


def test_a_hop_that_asks_for_no_time_at_all_is_given_some() -> None:
    assert jittered(0.0) >= MIN_REST
