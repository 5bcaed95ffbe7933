from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

from swarm.server.neighbours import MAX_OPEN, NUM_NEAR, Measured, Neighbours, choose_neighbours, likely_next
from swarm.types import PeerId, Reach, ServerRecord, ServerState, Span, View
from tests.directory.members import MODEL, member, record_of

ME = PeerId("me")
DICE = random.Random(3)


def at(peer: str, start: int, end: int, **changes: Any) -> ServerRecord:
    digests = tuple("abcdefgh"[block] * 16 for block in range(start, end))
    return record_of(PeerId(peer), num_blocks=8, span=Span(start, end), digests=digests, **changes)


def test_a_route_goes_on_where_our_span_ends() -> None:
    records = (
        at("begins there", 4, 8),
        at("holds all", 0, 8),
        at("ends there", 2, 4),
        at("begins later", 5, 8),
        at("leaves", 4, 8, state=ServerState.DRAINING),
        at("nobody gets there", 4, 8, reach=Reach.UNREACHABLE),
        at("relayed", 4, 8, reach=Reach.RELAYED),
        at(ME, 4, 8),
    )
    view = View(model=MODEL, records=records, taken_at=0.0)
    assert [each.peer for each in likely_next(view, Span(0, 4), ME)] == ["begins there", "holds all", "relayed"]
    assert likely_next(view, Span(4, 8), ME) == ()


def test_the_nearest_stay_and_the_others_take_turns() -> None:
    candidates = [at(f"p{number}", 4, 8) for number in range(40)]
    assert len(choose_neighbours(candidates, {}, dice=DICE)) == MAX_OPEN
    assert choose_neighbours(candidates[:3], {}, dice=DICE)[0] in candidates[:3]
    distance = {record.peer: 0.01 * (40 - number) for number, record in enumerate(candidates)}
    measured: dict[PeerId, Measured] = {}
    for round_number in range(1, 12):
        chosen = choose_neighbours(candidates, measured, dice=DICE)
        assert len({each.peer for each in chosen}) == MAX_OPEN
        measured |= {each.peer: Measured(distance[each.peer], round_number) for each in chosen}
    assert len(measured) == 40  # all were seen once
    nearest = sorted(distance, key=distance.__getitem__)[:NUM_NEAR]
    assert [each.peer for each in choose_neighbours(candidates, measured, dice=DICE)[:NUM_NEAR]] == nearest


def test_a_server_that_did_not_answer_waits_for_its_turn() -> None:
    candidates = [at(f"p{number}", 4, 8) for number in range(MAX_OPEN + 1)]
    measured = {PeerId("p0"): Measured(None, 1)}
    assert "p0" not in [each.peer for each in choose_neighbours(candidates, measured, dice=DICE)]


async def test_round_trips_are_measured_over_channels_that_sessions_find_open() -> None:
    async with member() as ours, member() as near:
        await near.peer.serve(lambda channel: None)  # type: ignore[arg-type,return-value]
        addrs = tuple(str(addr) for addr in (*near.peer.addrs, *near.peer.direct_addrs))
        there = at(near.peer.peer_id, 4, 8, addrs=addrs)
        dead = at("12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL", 4, 8)
        neighbours = Neighbours(ours.peer, MODEL, there.fingerprint, Span(0, 4))
        view = View(model=MODEL, records=(there, dead), taken_at=0.0)
        await neighbours.measure(view)
        ((peer, seconds),) = neighbours.round_trips
        assert peer == near.peer.peer_id and 0 < seconds < 0.1
        (channel,) = ours.peer.channels
        assert await ours.peer.channel(peer, addrs) is channel
        await neighbours.measure(view)
        assert ours.peer.channels == (channel,)
        await neighbours.measure(replace(view, records=(dead,)))
        assert neighbours.round_trips == ()
        await asyncio.wait_for(channel.wait_closed(), 5)


async def test_a_channel_that_sessions_use_is_left_to_them() -> None:
    async with member() as ours, member() as near:
        await near.peer.serve(lambda channel: None)  # type: ignore[arg-type,return-value]
        there = at(near.peer.peer_id, 4, 8, addrs=tuple(str(addr) for addr in near.peer.addrs))
        neighbours = Neighbours(ours.peer, MODEL, there.fingerprint, Span(0, 4))
        await neighbours.measure(View(model=MODEL, records=(there,), taken_at=0.0))
        (channel,) = ours.peer.channels
        channel.receiver = Silent()
        await neighbours.measure(View(model=MODEL, records=(), taken_at=0.0))
        assert channel.is_open and neighbours.round_trips == ()


class Silent:
    """A receiver that nothing is told to."""

    def received(self, *args: object) -> None:
        raise AssertionError

    def closed(self, *args: object) -> None: ...
