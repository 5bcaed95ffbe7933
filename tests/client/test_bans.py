from __future__ import annotations

from swarm.client.bans import FIRST, FORGET, MOST, RETRY, Bans
from swarm.errors import HopLost, HopTimeout
from swarm.types import PeerId

PEER, OTHER = PeerId("one"), PeerId("other")
LOST, SILENT = HopLost("gone"), HopTimeout("silent")


def test_each_further_failure_doubles_the_ban_up_to_the_most() -> None:
    bans, now = Bans(), 100.0
    for failures in range(12):
        bans.add(PEER, LOST, now)
        seconds = min(MOST, FIRST * 2**failures)
        assert PEER in bans.now(now + seconds - 0.01) and PEER not in bans.now(now + seconds)
        now += seconds + 1


def test_after_a_quiet_while_the_count_begins_anew() -> None:
    bans = Bans()
    for now in (0.0, 3.0, 10.0):
        bans.add(PEER, LOST, now)
    bans.add(PEER, LOST, 10.0 + 4 * FIRST + FORGET + 1)
    assert PEER not in bans.now(10.0 + 4 * FIRST + FORGET + 1 + FIRST)


def test_failures_of_many_sessions_at_once_are_one() -> None:
    bans = Bans()
    for moment in range(50):
        bans.add(PEER, LOST, 0.001 * moment)
    assert PEER not in bans.now(FIRST + 0.1)


def test_where_nobody_else_is_left_the_lost_are_asked_again_soon_but_not_the_silent() -> None:
    bans = Bans()
    bans.add(PEER, LOST, 0.0)
    bans.add(OTHER, SILENT, 0.0)
    assert set(bans.strictest(RETRY / 2)) == {PEER, OTHER}
    assert set(bans.strictest(RETRY)) == {OTHER}
    assert bans.now(RETRY) == {PEER: LOST, OTHER: SILENT}
