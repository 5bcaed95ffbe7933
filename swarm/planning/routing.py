"""Routing: the fastest chain of servers through a stretch of blocks.

A shortest path over (block boundary, server). best[p] is the cost of having run all blocks up to
the current boundary, the last of them on p. At each boundary the work either stays on p or moves
to another server q that holds the next block; a server's span may be left and entered anywhere.
Round trips between servers are known for a few pairs only; all others cost the default, so that
a move needs no look at all pairs: work is O(blocks x (servers + known pairs)).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from swarm.planning.coverage import ROUTABLE
from swarm.types import Hop, PeerId, ServerRecord, Span, View

_Path = tuple[float, tuple[Hop, ...]]
"""Cost so far in seconds, and the hops; the last hop is still growing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a route costs beside compute, in seconds.

    Attributes:
        to_client: Our own measured round trips to servers.
        between: Announced round trips from one server to another.
        default_round_trip: For pairs that nobody measured: a continental distance.
        hop_overhead: Transport and scheduling of one hop, whoever it is.
    """

    to_client: Mapping[PeerId, float] = field(default_factory=dict)
    between: Mapping[tuple[PeerId, PeerId], float] = field(default_factory=dict)
    default_round_trip: float = 0.05
    hop_overhead: float = 0.001

    def leg(self, peer: PeerId) -> float:
        """One way between the client and a server."""
        return self.to_client.get(peer, self.default_round_trip) / 2


def find_route(view: View, span: Span, costs: Costs, *, excluded: Container[PeerId] = ()) -> tuple[Hop, ...] | None:
    """Return the cheapest hops that cover `span` in order, or None if some block has no server.

    Only online servers that are not `excluded` take part; the view must hold one checkpoint only
    (see `agreement`).
    """
    servers = {
        record.peer: record for record in view.records if record.state in ROUTABLE and record.peer not in excluded
    }
    best: dict[PeerId, _Path] = {}
    for block in range(span.start, span.end):
        holders = [record for record in servers.values() if block in record.span]
        entered = _enter(best, holders, block, costs) if block > span.start else _start(holders, block, costs)
        best = {peer: _run_block(path, servers[peer], block) for peer, path in entered.items()}
        if not best:
            return None
    cost_of = {peer: path[0] + costs.leg(peer) for peer, path in best.items()}
    last = min(cost_of, key=lambda peer: (cost_of[peer], peer))
    return best[last][1]


def route_cost(hops: tuple[Hop, ...], view: View, costs: Costs) -> float:
    """Return the seconds that one decode step through `hops` should take: the plain sum, the specification."""
    records = {record.peer: record for record in view.records}
    total = costs.leg(hops[0].peer) + costs.leg(hops[-1].peer)
    total += sum(_move(before.peer, after.peer, costs) for before, after in pairwise(hops))
    for hop in hops:
        record = records[hop.peer]
        total += costs.hop_overhead + _queue(record) + (hop.end - hop.start) / max(record.decode_per_s, 1e-9)
    return total


def _start(holders: list[ServerRecord], block: int, costs: Costs) -> dict[PeerId, _Path]:
    return {
        record.peer: (
            costs.leg(record.peer) + costs.hop_overhead + _queue(record),
            (Hop(record.peer, block, block),),
        )
        for record in holders
    }


def _enter(best: dict[PeerId, _Path], holders: list[ServerRecord], block: int, costs: Costs) -> dict[PeerId, _Path]:
    """For each holder of `block` the cheapest way to be there: stay, or move from anybody."""
    cheapest = min(best, key=lambda peer: (best[peer][0], peer))
    known: dict[PeerId, list[PeerId]] = {}
    for before, after in costs.between:
        if before in best:
            known.setdefault(after, []).append(before)
    entered: dict[PeerId, _Path] = {}
    for record in holders:
        options = [(best[p][0] + _move(p, record.peer, costs), p) for p in {cheapest, *known.get(record.peer, ())}]
        # A span is one stretch, so whoever was left is never needed again: staying covers that case.
        options = [(cost, p) for cost, p in options if all(hop.peer != record.peer for hop in best[p][1])]
        moves = [
            (cost + costs.hop_overhead + _queue(record), (*best[p][1], Hop(record.peer, block, block)))
            for cost, p in options
        ]
        stays = [best[record.peer]] if record.peer in best else []
        entered[record.peer] = min(stays + moves, key=lambda path: (path[0], len(path[1])))
    return entered


def _run_block(path: _Path, record: ServerRecord, block: int) -> _Path:
    cost, hops = path
    grown = Hop(record.peer, hops[-1].start, block + 1)
    return cost + 1 / max(record.decode_per_s, 1e-9), (*hops[:-1], grown)


def _move(before: PeerId, after: PeerId, costs: Costs) -> float:
    return costs.between.get((before, after), costs.default_round_trip) / 2


def _queue(record: ServerRecord) -> float:
    """Seconds until the steps that wait there now are through the server's span."""
    return record.load * len(record.span) / max(record.decode_per_s, 1e-9)
