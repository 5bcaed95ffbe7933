"""Sampling: of a view of thousands the servers that a good route may go through.

Two ways in. Of each block the servers that are cheapest for themselves: compute, queue and the nearest neighbour,
shared out over the blocks of the span. And chains of neighbours: a search with few states, block by block, that
looks only at such servers and at those to which a server that it holds knows the way. Nothing is drawn at random:
equal views give equal samples.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from heapq import nsmallest
from math import inf

from swarm.planning.costs import Costs, is_relayed
from swarm.planning.coverage import is_routable
from swarm.types import PeerId, ServerRecord, Span, View

LIMIT = 512
"""Servers above which a view is sampled; through as many a route is found in some ten milliseconds."""

HOLDERS = 12
"""Of each block as many of the servers that are cheapest for themselves are kept, and of those near the client at
both ends of the span."""

BEAM = 20
"""States that the search for chains keeps at each block."""


def sample(view: View, span: Span, costs: Costs, *, excluded: Container[PeerId] = (), limit: int = LIMIT) -> View:
    """Return a view of some hundreds of servers through which a route is about as cheap as through all.

    Args:
        excluded: As for `find_route`: they do not take others' places.
        limit: A view of at most so many servers is returned as it is.
    """
    if len(view.records) <= limit:
        return view
    able = [r for r in view.records if is_routable(r) and r.peer not in excluded]
    forth = _Chains(
        able, {r.peer: (r.span.start - span.start, r.span.end - span.start) for r in able}, costs, len(span)
    )
    back = _Chains(able, {r.peer: (span.end - r.span.end, span.end - r.span.start) for r in able}, costs, len(span))
    chosen = forth.cheapest() | back.cheapest() | forth.chained() | back.chained()
    return replace(view, records=tuple(record for record in view.records if record.peer in chosen))


class _Chains:
    """Servers as one meets them on the way through a span from one end to the other."""

    def __init__(self, able: list[ServerRecord], spans: Mapping[PeerId, tuple[int, int]], costs: Costs, length: int):
        self._length = length
        self._links = costs.between
        self._spans: dict[PeerId, tuple[int, int]] = {}
        self._per_block: dict[PeerId, float] = {}
        self._entry: dict[PeerId, float] = {}
        self._leaving: dict[PeerId, float] = {}
        self._entering: dict[PeerId, float] = {}
        self._leg: dict[PeerId, float] = {}
        alone: list[tuple[float, PeerId]] = []
        for record in able:
            peer, (start, end) = record.peer, spans[record.peer]
            start, end = max(0, start), min(length, end)
            if start >= end:
                continue
            self._spans[peer] = start, end
            self._per_block[peer] = costs.block(record)
            self._entry[peer] = costs.entry(record)
            self._leg[peer] = costs.leg(record)
            self._leaving[peer] = costs.leaving(peer)
            self._entering[peer] = costs.entering(peer, is_relayed=is_relayed(record))
            known = min(self._links.get(peer, {}).values(), default=inf) / 2
            fixed = self._entry[peer] + min(known, 2 * self._entering[peer])
            alone.append((fixed / (end - start) + self._per_block[peer], peer))
        self._alone = sorted(alone)
        self._best: list[list[PeerId]] = [[] for _ in range(length)]
        self._rest = [0.0] * (length + 1)

    def cheapest(self) -> set[PeerId]:
        """Return for each block the first HOLDERS servers in the order of their own cost, where there are as many."""
        chosen: set[PeerId] = set()
        num_open, rates = self._length, [0.0] * self._length
        for cost, peer in self._alone:
            for block in range(*self._spans[peer]):
                if len(self._best[block]) < HOLDERS:
                    rates[block] = rates[block] or cost
                    self._best[block].append(peer)
                    num_open -= len(self._best[block]) == HOLDERS
                    chosen.add(peer)
            if not num_open:
                break
        for block in reversed(range(self._length)):
            self._rest[block] = self._rest[block + 1] + rates[block]
        return chosen

    def chained(self) -> set[PeerId]:
        """Return the servers that a narrow search through neighbours passes; after `cheapest`."""
        beam = {p: self._leg[p] + self._entry[p] for p, (start, _) in self._spans.items() if start == 0}
        beam = self._keep(0, beam)
        chosen = set(beam)
        for block in range(1, self._length):
            beam = self._keep(block, self._entered(block, beam))
            chosen.update(beam)
        return chosen

    def _entered(self, block: int, beam: dict[PeerId, float]) -> dict[PeerId, float]:
        """What was spent when `block` begins: on servers that stay, the block's own best, and neighbours."""
        spans, entry = self._spans, self._entry
        entered = {peer: spent for peer, spent in beam.items() if spans[peer][1] > block}
        lowest = min((spent + self._leaving[peer] for peer, spent in beam.items()), default=inf)
        for peer in self._best[block]:
            entered[peer] = min(lowest + self._entering[peer] + entry[peer], entered.get(peer, inf))
        for before, spent in beam.items():
            for peer, seconds in self._links.get(before, {}).items():
                start, end = spans.get(peer, (0, 0))
                if start <= block < end and (cost := spent + seconds / 2 + entry[peer]) < entered.get(peer, inf):
                    entered[peer] = cost
        return entered

    def _keep(self, block: int, entered: dict[PeerId, float]) -> dict[PeerId, float]:
        """The most promising states after `block`: of what was spent, of this span's rest and of all behind it."""
        ranked: list[tuple[float, PeerId, float]] = []
        for peer, spent in entered.items():
            per_block, end = self._per_block[peer], self._spans[peer][1]
            behind = self._leg[peer] if end == self._length else self._rest[end]
            ranked.append((spent + (end - block) * per_block + behind, peer, spent + per_block))
        return {peer: spent for _, peer, spent in nsmallest(BEAM, ranked)}
