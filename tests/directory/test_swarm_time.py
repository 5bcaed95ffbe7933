from __future__ import annotations

import pytest

from swarm.directory.swarm_time import SwarmTime


class Frozen:
    """A clock that stands."""

    def monotonic(self) -> float:
        return 0.0

    def unix(self) -> float:
        return 1000.0


def test_a_newcomer_takes_over_the_median_time_of_those_it_joins() -> None:
    time = SwarmTime(Frozen())
    time.adjust([600.0, 601.0, -1e9], is_first=True)
    assert time.offset == 600.0 and time.now() == 1600.0 and time.to_local(1650.0) == 1050.0


@pytest.mark.parametrize("differences", [[], [2.0], [-2.9], [0.0, 900.0, 0.1]])
def test_small_differences_and_a_single_liar_change_nothing(differences: list[float]) -> None:
    time = SwarmTime(Frozen())
    time.adjust(differences, is_first=True)
    assert time.offset == 0.0


def test_two_peers_that_correct_themselves_by_each_other_come_together() -> None:
    fast, slow = SwarmTime(Frozen()), SwarmTime(Frozen())
    fast.offset = 600.0
    for _ in range(100):
        gap = fast.now() - slow.now()
        fast.adjust([-gap], is_first=False)
        slow.adjust([gap], is_first=False)
    assert abs(fast.now() - slow.now()) <= 3.0
