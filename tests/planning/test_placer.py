"""The placer: from the first claim to a move, as its driver sees it."""

from __future__ import annotations

import random
from dataclasses import replace
from math import inf

import pytest

from swarm.planning import Act, Decision, Outlook, Placer
from swarm.planning.placer import CLAIM_WAIT, LEASE, MAX_CLAIM_LOOKS, MIN_MOVE_WAIT
from swarm.types import ServerRecord, ServerState, Span, View
from tests.planning.views import record

NUM_BLOCKS = 8
TTL = 60.0
NOW = 1000.0
MINE = record("me", 0, 4, decode_per_s=0.0)
ONLINE, JOINING, DRAINING = ServerState.ONLINE, ServerState.JOINING, ServerState.DRAINING


def outlook(*records: ServerRecord, now: float = NOW) -> Outlook:
    return Outlook.of(View(model="m", records=records, taken_at=now), num_blocks=NUM_BLOCKS, ttl=TTL)


def announced(decision: Decision, **changes: object) -> ServerRecord:
    told = {"state": decision.state, "span": decision.span, "next_span": decision.next_span, "since": decision.since}
    return replace(MINE, digests=(), **{**told, **changes})  # type: ignore[arg-type]


def serving(span: Span, now: float = NOW) -> tuple[Placer, Decision]:
    placer = Placer(MINE, ttl=TTL)
    return placer, placer.resume(span, now, speed=1000.0, held_since=now)


def test_a_claim_that_stands_is_loaded_and_then_served() -> None:
    placer = Placer(MINE, ttl=TTL)
    claim = placer.start(outlook(record("a", 0, 4)), NOW)
    assert (claim.act, claim.state, claim.span, claim.since) == (Act.LOOK, JOINING, Span(4, 8), NOW)
    assert NOW + CLAIM_WAIT <= claim.look_at <= NOW + 1.5 * CLAIM_WAIT
    load = placer.look(outlook(record("a", 0, 4), announced(claim)), claim.look_at)
    assert load == replace(claim, act=Act.LOAD, look_at=inf)
    online = placer.loaded(NOW + 60, 500.0)
    assert (online.act, online.state, online.span, online.since) == (Act.LOOK, ONLINE, Span(4, 8), NOW + 60)
    assert NOW + 60 < online.look_at < NOW + 60 + TTL / 2


def test_a_claim_that_somebody_made_before_is_changed_and_keeps_its_turn() -> None:
    placer = Placer(MINE, ttl=TTL)
    claim = placer.start(outlook(), NOW)
    rival = record("a", 0, 4, state=JOINING, since=NOW - 0.5)
    changed = placer.look(outlook(announced(claim), rival), NOW + 3)
    assert (changed.act, changed.span, changed.since) == (Act.LOOK, Span(4, 8), NOW)
    assert placer.look(outlook(announced(changed), rival), NOW + 6).act is Act.LOAD


def test_claims_that_change_for_ever_are_loaded_in_the_end() -> None:
    placer = Placer(MINE, ttl=TTL)
    decision, looks = placer.start(outlook(), NOW), 0
    while decision.act is Act.LOOK:
        rival = replace(announced(decision), peer=record("a", 0, 1).peer, since=NOW - 0.5)
        decision, looks = placer.look(outlook(announced(decision), rival), NOW + 3 * looks), looks + 1
    assert decision.act is Act.LOAD and looks <= MAX_CLAIM_LOOKS


def test_a_server_moves_in_steps_that_others_can_follow() -> None:
    placer, _ = serving(Span(0, 4))
    other = record("a", 0, 4, since=1.0)
    wish = placer.look(outlook(other), NOW + 20)
    assert (wish.act, wish.state, wish.span, wish.next_span) == (Act.LOOK, ONLINE, Span(0, 4), Span(4, 8))
    assert wish.since == NOW + 20 and wish.look_at >= NOW + 20 + max(MIN_MOVE_WAIT, TTL / 6)
    drain = placer.look(outlook(other, announced(wish)), wish.look_at)
    assert (drain.act, drain.state, drain.span, drain.next_span) == (Act.DRAIN, DRAINING, Span(0, 4), Span(4, 8))
    load = placer.drained(NOW + 50)
    assert (load.act, load.state, load.span, load.next_span, load.since) == (
        Act.LOAD,
        JOINING,
        Span(4, 8),
        None,
        NOW + 50,
    )
    assert placer.loaded(NOW + 90, 1000.0).state is ONLINE


def test_a_wish_is_given_up_when_the_hole_is_filled() -> None:
    placer, _ = serving(Span(0, 4))
    other = record("a", 0, 4, since=1.0)
    wish = placer.look(outlook(other), NOW + 20)
    filled = record("b", 4, 8)
    stay = placer.look(outlook(other, filled, announced(wish)), wish.look_at)
    assert (stay.act, stay.state, stay.next_span, stay.since) == (Act.LOOK, ONLINE, None, NOW)


def test_a_wish_comes_after_all_that_its_server_has_seen_whatever_their_clocks_say() -> None:
    placer, _ = serving(Span(0, 2))
    ahead = record("a", 0, 2, since=NOW + 500, next_span=Span(2, 4))
    wish = placer.look(outlook(ahead, record("b", 0, 2)), NOW + 20)
    assert wish.next_span is not None and wish.since > NOW + 500


def test_only_a_hole_moves_a_server_before_its_lease_is_over() -> None:
    rich = [record(f"r{index}", 0, 4, decode_per_s=1000.0) for index in range(3)]
    seen = outlook(*rich, record("p", 4, 8, decode_per_s=500.0))
    placer, _ = serving(Span(0, 4))
    assert placer.look(seen, NOW + LEASE - 1).next_span is None
    assert placer.look(seen, NOW + 1.5 * LEASE).next_span == Span(4, 8)


def test_what_took_long_to_load_stays_long() -> None:
    placer = Placer(MINE, ttl=TTL)
    claim = placer.start(outlook(), NOW)
    load = placer.look(outlook(announced(claim)), NOW + 3)
    placer.loaded(NOW + 303, 1000.0)
    rich = [record(f"r{index}", 0, 4, decode_per_s=1000.0) for index in range(3)]
    seen = outlook(*rich, record("p", 4, 8, decode_per_s=500.0))
    assert load.span == Span(0, 4)
    assert placer.look(seen, NOW + 1.5 * LEASE + 303).next_span is None
    assert placer.look(seen, NOW + 303 + 1.5 * 20 * 300).next_span == Span(4, 8)


@pytest.mark.parametrize("spans", [[(0, 10), (0, 10), (10, 20), (10, 20)], [(0, 10), (0, 10), (10, 20)]])
def test_with_the_default_ttl_a_hole_left_by_a_goodbye_is_filled_within_half_a_minute(
    spans: list[tuple[int, int]],
) -> None:
    assert max(seconds_to_fill(spans, Span(20, 30), seed) for seed in range(100)) < 30


def seconds_to_fill(spans: list[tuple[int, int]], hole: Span, seed: int) -> float:
    """Return the seconds from the goodbye of the only server of `hole` until another serves it."""
    drain, load, now, chance = 1.0, 3.0, 10_000.0, random.Random(seed)
    records = {"leaver": record("leaver", hole.start, hole.end, num_blocks=30)}
    placers, next_at = dict[str, Placer](), dict[str, tuple[float, Act]]()
    for index, span in enumerate(spans):
        name = f"s{index} of {seed}"  # placers draw their times from their peers' ids
        records[name] = record(name, *span, num_blocks=30)
        placers[name] = Placer(records[name], ttl=TTL)
        decision = placers[name].resume(Span(*span), now, speed=1000.0, held_since=now - 1000)
        next_at[name] = decision.look_at, Act.LOOK
    goodbye = now + chance.uniform(60, 120)
    while True:
        name = min(next_at, key=lambda name: next_at[name])
        now, act = next_at[name]
        if now > goodbye:
            records.pop("leaver", None)
        assert now < goodbye + 200, "nobody moved"
        placer = placers[name]
        if act is Act.LOOK:
            fresh = tuple(replace(each, expires_at=now + TTL) for each in records.values())
            view = View(model="m", records=fresh, taken_at=now)
            decision = placer.look(Outlook.of(view, num_blocks=30, ttl=TTL), now)
        else:
            decision = placer.drained(now) if act is Act.DRAIN else placer.loaded(now, 1000.0)
        told = {"state": decision.state, "span": decision.span, "next_span": decision.next_span}
        records[name] = replace(records[name], since=decision.since, **told)  # type: ignore[arg-type]
        seconds = {Act.DRAIN: now + drain, Act.LOAD: now + load}.get(decision.act, decision.look_at)
        next_at[name] = seconds, decision.act
        if now > goodbye and any(r.state is ONLINE and r.span == hole for r in records.values()):
            return now - goodbye


def test_in_a_large_swarm_each_one_looks_rarer() -> None:
    crowd = [record(f"c{index}", 4 * (index % 2), 4 * (index % 2) + 4) for index in range(640)]
    placer, _ = serving(Span(0, 4))
    stay = placer.look(outlook(*crowd), NOW)
    assert NOW + 10 * TTL / 3 < stay.look_at < NOW + 30 * TTL / 3
