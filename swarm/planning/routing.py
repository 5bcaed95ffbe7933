"""Routing: the fastest chain of servers through a stretch of blocks.

Of thousands of servers take a `sample` first: what stands here looks at every server it is given.
"""

from __future__ import annotations

import heapq
from collections.abc import Container
from dataclasses import dataclass
from itertools import count

from swarm.planning.costs import Costs, is_relayed
from swarm.planning.coverage import is_routable
from swarm.planning.search import Ends, Limits, Search, return_to_a_server, without_returns
from swarm.types import Hop, PeerId, Span, View

MAX_BRANCHES = 16
"""Paths taken apart for one route at most: records of strangers must not keep us thinking."""


def find_route(
    view: View,
    span: Span,
    costs: Costs,
    *,
    excluded: Container[PeerId] = (),
    before: PeerId | None = None,
    after: PeerId | None = None,
) -> tuple[Hop, ...] | None:
    """Return the cheapest hops that cover `span` in order, or None if some block has no server.

    Only servers that are online, reachable and not `excluded` take part, each at most once; the view must hold
    one checkpoint only (see `agreement`). After MAX_BRANCHES paths that return to a server, the cheapest route
    seen so far is taken. One server that holds everything wins over any split of the same cost.

    Args:
        before: Where a stretch in the middle of a route gets its input from; None is the client. A session
            passes a server once, so neither `before` nor `after` takes part; exclude the route's other hops.
        after: Where the stretch sends its output; None is the client.
    """
    out = (before, after)
    servers = [r for r in view.records if is_routable(r) and r.peer not in excluded and r.peer not in out]
    search = Search(servers, span, costs, _ends(view, before, after))
    rank = count()  # of equal costs the one found first
    found = search.shortest(Limits())
    heap = [] if found is None else [(found[0], next(rank), found[1], Limits())]
    for _ in range(MAX_BRANCHES):
        if not heap:
            return None
        _, _, hops, limits = heapq.heappop(heap)
        back = return_to_a_server(hops)
        if back is None:
            return hops
        stayed = without_returns(hops)
        cost = route_cost(stayed, view, costs, before=before, after=after)
        heapq.heappush(heap, (cost, next(rank), stayed, limits))
        for branch in limits.branches(back):
            if (found := search.shortest(branch)) is not None:
                heapq.heappush(heap, (found[0], next(rank), found[1], branch))
    return next(hops for _, _, hops, _ in sorted(heap) if return_to_a_server(hops) is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class HopCost:
    """What one hop should add to a decode step, in seconds.

    Attributes:
        hop: The blocks and who runs them.
        arrival: One way to it from the hop before, or from where the route begins.
        queue: Waiting for other sessions' steps, or for pages, and handling.
        compute: In the blocks.
    """

    hop: Hop
    arrival: float
    queue: float
    compute: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteCost:
    """What a decode step through a route should take, in seconds: the plain sum, and the specification of the search.

    Attributes:
        hops: In the order of the route.
        answer: One way from the last hop to the client, or to where the route ends.
    """

    hops: tuple[HopCost, ...]
    answer: float

    @property
    def total(self) -> float:
        """The whole step."""
        return self.answer + sum(hop.arrival + hop.queue + hop.compute for hop in self.hops)


def predict(
    hops: tuple[Hop, ...], view: View, costs: Costs, *, before: PeerId | None = None, after: PeerId | None = None
) -> RouteCost:
    """Return what a decode step through `hops` should take, part by part.

    Raises:
        KeyError: A hop's server is not in `view`.
    """
    records = {record.peer: record for record in view.records}
    ends = _ends(view, before, after)
    parts: list[HopCost] = []
    for index, hop in enumerate(hops):
        server = records[hop.peer]
        arrival = (
            costs.move(hops[index - 1].peer, hop.peer, is_relayed=is_relayed(server))
            if index
            else ends.first_leg(server, costs)
        )
        compute = (hop.end - hop.start) * costs.block(server)
        parts.append(HopCost(hop=hop, arrival=arrival, queue=costs.entry(server), compute=compute))
    return RouteCost(hops=tuple(parts), answer=ends.last_leg(records[hops[-1].peer], costs))


def route_cost(
    hops: tuple[Hop, ...], view: View, costs: Costs, *, before: PeerId | None = None, after: PeerId | None = None
) -> float:
    """Return the seconds that one decode step through `hops` should take; raises as `predict`."""
    return predict(hops, view, costs, before=before, after=after).total


def _ends(view: View, before: PeerId | None, after: PeerId | None) -> Ends:
    behind_relay = after is not None and any(r.peer == after and is_relayed(r) for r in view.records)
    return Ends(before=before, after=after, is_after_relayed=behind_relay)
