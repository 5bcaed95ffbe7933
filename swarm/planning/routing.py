"""Routing: the fastest chain of servers through a stretch of blocks.

A shortest path over (block boundary, server): at each boundary the work either stays on its server
or moves to another that holds the next block; a span may be left and entered anywhere. Round trips
between servers are known for a few pairs only, all others cost the default, so that a move needs
no look at all pairs: work is O(blocks x (servers + known pairs)).

A session goes through a server once, while the shortest path may leave a server and come back to
it. That is rare, and settled by branch and bound: such a path is replaced by the three ways in
which a route can avoid the return, until the cheapest path left is a route.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, count, pairwise
from math import inf

from swarm.planning.coverage import ROUTABLE
from swarm.types import Hop, PeerId, ServerRecord, Span, View

MAX_BRANCHES = 16
"""Paths taken apart for one route at most: records of strangers must not keep us thinking."""

_Path = tuple[float, tuple[Hop, ...]]
"""Seconds, and the hops."""


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

    def move(self, before: PeerId, after: PeerId) -> float:
        """One way from a server to the next."""
        return self.between.get((before, after), self.default_round_trip) / 2


def find_route(view: View, span: Span, costs: Costs, *, excluded: Container[PeerId] = ()) -> tuple[Hop, ...] | None:
    """Return the cheapest hops that cover `span` in order, or None if some block has no server.

    Only online servers that are not `excluded` take part, each at most once; the view must hold one
    checkpoint only (see `agreement`). After MAX_BRANCHES paths that return to a server, the
    cheapest route seen so far is taken.
    """
    search = _Search(view, span, costs, excluded)
    rank = count()  # of equal costs the one found first
    found = search.shortest(_Limits())
    heap = [] if found is None else [(found[0], next(rank), found[1], _Limits())]
    for _ in range(MAX_BRANCHES):
        if not heap:
            return None
        _, _, hops, limits = heapq.heappop(heap)
        back = _return_to_a_server(hops)
        if back is None:
            return hops
        stayed = _without_returns(hops)
        heapq.heappush(heap, (route_cost(stayed, view, costs), next(rank), stayed, limits))
        for branch in limits.branches(back):
            if (found := search.shortest(branch)) is not None:
                heapq.heappush(heap, (found[0], next(rank), found[1], branch))
    return next(hops for _, _, hops, _ in sorted(heap) if _return_to_a_server(hops) is None)


def route_cost(hops: tuple[Hop, ...], view: View, costs: Costs) -> float:
    """Return the seconds that one decode step through `hops` should take: the plain sum, the specification."""
    records = {record.peer: record for record in view.records}
    total = costs.leg(hops[0].peer) + costs.leg(hops[-1].peer)
    total += sum(costs.move(before.peer, after.peer) for before, after in pairwise(hops))
    for hop in hops:
        record = records[hop.peer]
        total += costs.hop_overhead + _queue(record) + (hop.end - hop.start) * _per_block(record)
    return total


@dataclass(frozen=True, slots=True)
class _Limits:
    """What one branch of the search allows: of some servers a part only, for some blocks one server only."""

    ranges: Mapping[PeerId, tuple[float, float]] = field(default_factory=dict)
    forced: Mapping[int, PeerId] = field(default_factory=dict)

    def filter(self, holders: list[PeerId], block: int) -> list[PeerId]:
        """Return those of the block's `holders` that may run it."""
        barred = {peer for peer, (start, end) in self.ranges.items() if not start <= block < end}
        if not barred and block not in self.forced:
            return holders
        return [peer for peer in holders if peer not in barred and self.forced.get(block, peer) == peer]

    def branches(self, back: Hop) -> Iterator[_Limits]:
        """Use the server of `back` only from there on, only before, or without leaving it there."""
        peer, block = back.peer, back.start
        start, end = self.ranges.get(peer, (-inf, inf))
        yield _Limits({**self.ranges, peer: (max(start, block), end)}, self.forced)
        yield _Limits({**self.ranges, peer: (start, min(end, block))}, self.forced)
        yield _Limits(self.ranges, {**self.forced, block - 1: peer, block: peer})


class _Search:
    """Shortest paths through one view, returns to a server allowed."""

    def __init__(self, view: View, span: Span, costs: Costs, excluded: Container[PeerId]) -> None:
        self._costs = costs
        self._blocks = range(span.start, span.end)
        servers = {r.peer: r for r in view.records if r.state in ROUTABLE and r.peer not in excluded}
        self._holders: dict[int, list[PeerId]] = {block: [] for block in self._blocks}
        for peer, record in servers.items():
            for block in range(max(span.start, record.span.start), min(span.end, record.span.end)):
                self._holders[block].append(peer)
        self._per_block = {peer: _per_block(record) for peer, record in servers.items()}
        self._entry = {peer: costs.hop_overhead + _queue(record) for peer, record in servers.items()}
        self._near: dict[PeerId, set[PeerId]] = {}
        for before, after in costs.between:
            self._near.setdefault(after, set()).add(before)
        self._max_near = max(map(len, self._near.values()), default=0)

    def shortest(self, limits: _Limits) -> _Path | None:
        """Return the cheapest path within `limits`; None if there is none."""
        best: dict[PeerId, float] = {}
        steps: list[dict[PeerId, PeerId]] = []  # for each block and server: where the block before ran
        for block in self._blocks:
            holders = limits.filter(self._holders[block], block)
            if block == self._blocks.start:
                entered = {peer: (self._costs.leg(peer) + self._entry[peer], peer) for peer in holders}
            else:
                entered = self._enter(best, holders)
            best = {peer: cost + self._per_block[peer] for peer, (cost, _) in entered.items()}
            steps.append({peer: before for peer, (_, before) in entered.items()})
            if not best:
                return None
        cost, last = min((cost + self._costs.leg(peer), peer) for peer, cost in best.items())
        return cost, self._hops(last, steps)

    def _enter(self, best: dict[PeerId, float], holders: list[PeerId]) -> dict[PeerId, tuple[float, PeerId]]:
        """For each holder of the next block the cheapest way to be there, and from whom: itself, or another."""
        # Enough of the cheapest that for each holder one is left that is not itself and has no known round trip to it.
        cheapest = heapq.nsmallest(self._max_near + 2, ((cost, peer) for peer, cost in best.items()))
        default = self._costs.default_round_trip / 2
        entered: dict[PeerId, tuple[float, PeerId]] = {}
        for peer in holders:
            cost, before = cheapest[0]
            near = self._near.get(peer, ())
            if before == peer or near:
                cost, before = next(((c, p) for c, p in cheapest if p != peer and p not in near), (inf, peer))
                moves = ((best[p] + self._costs.move(p, peer) - default, p) for p in near if p != peer and p in best)
                cost, before = min([(cost, before), *moves])
            cost += default + self._entry[peer]
            stay = best.get(peer, inf)
            if min(stay, cost) < inf:
                entered[peer] = (stay, peer) if stay <= cost else (cost, before)
        return entered

    def _hops(self, last: PeerId, steps: list[dict[PeerId, PeerId]]) -> tuple[Hop, ...]:
        """Follow `steps` back from `last` and join the blocks that ran on one server."""
        peers = [last]
        for step in reversed(steps[1:]):
            peers.append(step[peers[-1]])
        hops: list[Hop] = []
        for block, peer in zip(self._blocks, reversed(peers), strict=True):
            start = hops.pop().start if hops and hops[-1].peer == peer else block
            hops.append(Hop(peer, start, block + 1))
        return tuple(hops)


def _return_to_a_server(hops: tuple[Hop, ...]) -> Hop | None:
    """The first hop on a server that an earlier hop ran on already."""
    return next((after for before, after in combinations(hops, 2) if before.peer == after.peer), None)


def _without_returns(hops: tuple[Hop, ...]) -> tuple[Hop, ...]:
    """Stay on a server wherever `hops` leave it and come back: dearer, but a route."""
    kept: list[Hop] = []
    for hop in hops:
        visited = next((index for index, before in enumerate(kept) if before.peer == hop.peer), len(kept))
        start = kept[visited].start if visited < len(kept) else hop.start
        kept[visited:] = [Hop(hop.peer, start, hop.end)]
    return tuple(kept)


def _per_block(record: ServerRecord) -> float:
    return 1 / max(record.decode_per_s, 1e-9)


def _queue(record: ServerRecord) -> float:
    """Seconds until the steps that wait there now are through the server's span."""
    return record.load * len(record.span) * _per_block(record)
