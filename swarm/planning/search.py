"""Shortest paths over (block, server): at each block the work stays on its server or moves to another.

A span may be left and entered anywhere. Round trips between servers are known for few pairs; all others are a sum
of what leaving the one and entering the other costs, so that a move needs no look at all pairs, and a server is
looked at more closely only where it could be entered for less than staying there costs.

A session goes through a server once, while the shortest path may leave a server and come back to it. That is
rare, and settled by branch and bound: such a path is replaced by the three ways in which a route can avoid the
return (`Limits.branches`), until the cheapest path left is a route.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import inf
from operator import itemgetter

from swarm.planning.costs import Costs, is_relayed
from swarm.types import Hop, PeerId, ServerRecord, Span

Path = tuple[float, tuple[Hop, ...]]
"""Seconds, and the hops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Between whom a route runs.

    Attributes:
        before: The server that the first hop gets its input from; None is the client.
        after: The server that the last hop sends its output to; None is the client.
        is_after_relayed: Whether `after` is reached through a relay.
    """

    before: PeerId | None = None
    after: PeerId | None = None
    is_after_relayed: bool = False

    def first_leg(self, server: ServerRecord, costs: Costs) -> float:
        """One way to the first hop."""
        if self.before is None:
            return costs.leg(server)
        return costs.move(self.before, server.peer, is_relayed=is_relayed(server))

    def last_leg(self, server: ServerRecord, costs: Costs) -> float:
        """One way from the last hop."""
        if self.after is None:
            return costs.leg(server)
        return costs.move(server.peer, self.after, is_relayed=self.is_after_relayed)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one branch of the search allows: of some servers a part only, for some blocks one server only."""

    ranges: Mapping[PeerId, tuple[float, float]] = field(default_factory=dict)
    forced: Mapping[int, PeerId] = field(default_factory=dict)

    def filter(self, holders: list[PeerId], block: int) -> list[PeerId]:
        """Return those of the block's `holders` that may run it."""
        barred = {peer for peer, (start, end) in self.ranges.items() if not start <= block < end}
        if not barred and block not in self.forced:
            return holders
        return [peer for peer in holders if peer not in barred and self.forced.get(block, peer) == peer]

    def branches(self, back: Hop) -> Iterator[Limits]:
        """Use the server of `back` only from there on, only before, or without leaving it there."""
        peer, block = back.peer, back.start
        start, end = self.ranges.get(peer, (-inf, inf))
        yield Limits({**self.ranges, peer: (max(start, block), end)}, self.forced)
        yield Limits({**self.ranges, peer: (start, min(end, block))}, self.forced)
        yield Limits(self.ranges, {**self.forced, block - 1: peer, block: peer})


class Search:
    """Shortest paths through given servers, returns to a server allowed."""

    def __init__(self, servers: Iterable[ServerRecord], span: Span, costs: Costs, ends: Ends) -> None:
        found = {record.peer: record for record in servers}
        self._blocks = range(span.start, span.end)
        self._holders: dict[int, list[PeerId]] = {block: [] for block in self._blocks}
        for peer, record in found.items():
            for block in range(max(span.start, record.span.start), min(span.end, record.span.end)):
                self._holders[block].append(peer)
        self._per_block = {peer: costs.block(record) for peer, record in found.items()}
        self._entry = {peer: costs.entry(record) for peer, record in found.items()}
        self._first = {peer: ends.first_leg(record, costs) for peer, record in found.items()}
        self._last = {peer: ends.last_leg(record, costs) for peer, record in found.items()}
        self._leaving = {peer: costs.leaving(peer) for peer in found}
        self._entering = {peer: costs.entering(peer, is_relayed=is_relayed(r)) for peer, r in found.items()}
        self._near: dict[PeerId, dict[PeerId, float]] = {}
        for before in found:
            for after, seconds in costs.between.get(before, {}).items():
                if after in found and after != before:
                    self._near.setdefault(after, {})[before] = seconds / 2
        for after, moves in self._near.items():
            self._near[after] = dict(sorted(moves.items(), key=itemgetter(1, 0)))

    def shortest(self, limits: Limits) -> Path | None:
        """Return the cheapest path within `limits`; None if there is none."""
        best: dict[PeerId, float] = {}
        steps: list[dict[PeerId, PeerId]] = []  # for each block and server: where the block before ran
        for block in self._blocks:
            holders = limits.filter(self._holders[block], block)
            if block == self._blocks.start:
                entered = {peer: (self._first[peer] + self._entry[peer], peer) for peer in holders}
            else:
                entered = self._enter(best, holders)
            best = {peer: cost + self._per_block[peer] for peer, (cost, _) in entered.items()}
            steps.append({peer: before for peer, (_, before) in entered.items()})
            if not best:
                return None
        cost, last = min((cost + self._last[peer], peer) for peer, cost in best.items())
        return cost, self._hops(last, steps)

    def _enter(self, best: dict[PeerId, float], holders: list[PeerId]) -> dict[PeerId, tuple[float, PeerId]]:
        """For each holder of the next block the cheapest way to be there, and from whom: itself, or another."""
        ranking = sorted((cost + self._leaving[peer], peer) for peer, cost in best.items())
        lowest = min(best.values())
        entered: dict[PeerId, tuple[float, PeerId]] = {}
        for peer in holders:
            stay, entry, entering = best.get(peer, inf), self._entry[peer], self._entering[peer]
            cost, before = ranking[0][0] + entering, ranking[0][1]
            near = self._near.get(peer)
            nearest = inf if near is None else lowest + next(iter(near.values()))
            if stay <= min(cost, nearest) + entry:
                entered[peer] = (stay, peer)
                continue
            if before == peer or near is not None:
                worth = stay - entry  # of what costs more than that, the cheapest is not asked for
                cost, before = _cheapest_move(best, ranking, lowest, peer, near or {}, entering, worth)
            cost += entry
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


def _cheapest_move(
    best: dict[PeerId, float],
    ranking: list[tuple[float, PeerId]],
    lowest: float,
    peer: PeerId,
    near: dict[PeerId, float],
    entering: float,
    worth: float,
) -> tuple[float, PeerId]:
    """The cheapest arrival at `peer` from another server (`near` is sorted by distance); infinite if there is none.

    If it costs more than `worth`, it may not be the cheapest.
    """
    cost, before = inf, peer
    for leaving, other in ranking:
        if other != peer and other not in near:
            cost, before = leaving + entering, other
            break
    most = min(cost, worth)
    for neighbour, move in near.items():
        if lowest + move > most:
            break
        if neighbour in best:
            arrival = best[neighbour] + move
            if arrival < cost or (arrival == cost and neighbour < before):
                cost, before = arrival, neighbour
                most = min(cost, worth)
    return cost, before


def return_to_a_server(hops: tuple[Hop, ...]) -> Hop | None:
    """Return the first hop on a server that an earlier hop ran on already."""
    return next((after for before, after in combinations(hops, 2) if before.peer == after.peer), None)


def without_returns(hops: tuple[Hop, ...]) -> tuple[Hop, ...]:
    """Stay on a server wherever `hops` leave it and come back: dearer, but a route."""
    kept: list[Hop] = []
    for hop in hops:
        visited = next((index for index, before in enumerate(kept) if before.peer == hop.peer), len(kept))
        start = kept[visited].start if visited < len(kept) else hop.start
        kept[visited:] = [Hop(hop.peer, start, hop.end)]
    return tuple(kept)
