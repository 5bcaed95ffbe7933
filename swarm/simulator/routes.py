"""Routes through a simulated swarm: what a client finds with what it can know, against the best there is.

The client is somewhere, reads the directory as it is then (late by a store, with dead servers that have not
expired), samples it, pings some servers that may be its first or last hop, and calls the real `find_route`. Hops of
the route found that it has not measured it pings too, and routes again, some times: what nobody has measured looks
better than it is, or it would not have been chosen. Who is dead it finds out by that, and leaves out. What the
route takes in truth is compared with the shortest path through all servers that serve at that moment, with all true
distances and speeds, by a search that may even pass a server twice: a bound that no route can beat.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from swarm.planning import Costs, find_route, sample
from swarm.simulator.links import Place, round_trip
from swarm.simulator.servers import SimulatedServer
from swarm.simulator.world import World
from swarm.types import Hop, PeerId, Span

PINGED = 64
"""Servers that a client measures before it chooses."""

MAX_ROUNDS = 12
"""Routes that a client tries until one has only hops that it has measured; then it takes the first that is alive."""

Servers = list[SimulatedServer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One route, in seconds a decode step.

    Attributes:
        at: Seconds since the beginning.
        taken: What the route takes in truth.
        best: What the best path takes.
        num_hops: Hops of the route.
        num_dead: Servers chosen that were dead already.
    """

    at: float
    taken: float
    best: float
    num_hops: int
    num_dead: int


@dataclass(slots=True)
class RouteMeter:
    """Measures routes of clients drawn at random.

    Attributes:
        measured: What was found.
        num_failed: Clients that found no route.
    """

    world: World
    measured: list[Measured] = field(default_factory=list)
    num_failed: int = 0

    def measure(self) -> None:
        """Let one client come now."""
        world = self.world
        place = Place.draw(world.chance)
        while world.is_cut(place):
            place = Place.draw(world.chance)
        hops, num_dead = self._find(place)
        if not hops:
            self.num_failed += 1
            return
        servers = [world.servers[hop.peer] for hop in hops]
        assert all(s.serving is not None and s.serving.covers(hop.span) for s, hop in zip(servers, hops, strict=True))
        alive = [server for server in world.servers.values() if server.serving is not None and not server.is_cut]
        self.measured.append(
            Measured(
                at=world.seconds,
                taken=true_cost(place, hops, servers),
                best=best_cost(place, alive, world.config.blocks),
                num_hops=len(hops),
                num_dead=num_dead,
            )
        )

    def _find(self, place: Place) -> tuple[tuple[Hop, ...], int]:
        """The route of a client there, and how many dead servers it met before."""
        world, span = self.world, Span(0, self.world.config.blocks)
        view = world.view()
        few = sample(view, span, Costs.of(view))
        ends = [r.peer for r in few.records if r.span.start == 0 or r.span.end == span.end]
        to_client: dict[PeerId, float] = {}
        dead: set[PeerId] = set()
        self._ping(place, ends[:PINGED], to_client, dead)
        costs = Costs.of(view, to_client)
        few = sample(view, span, costs, excluded=dead)
        for rounds in range(2 * MAX_ROUNDS):
            is_last = rounds >= MAX_ROUNDS  # from then on any route will do whose servers are alive
            hops = find_route(few, span, costs, excluded=dead)
            if hops is None and few is view:
                break
            if hops is None:
                few = view  # all that the sample has of some block are dead
                continue
            unknown = [hop.peer for hop in hops if hop.peer not in to_client]
            self._ping(place, unknown, to_client, dead)
            if not unknown or (is_last and dead.isdisjoint(unknown)):
                return hops, len(dead)
            costs = replace(costs, to_client=dict(to_client))
        return (), len(dead)

    def _ping(self, place: Place, peers: list[PeerId], to_client: dict[PeerId, float], dead: set[PeerId]) -> None:
        for peer in peers:
            if self._is_there(peer):
                to_client[peer] = round_trip(place, self.world.servers[peer].machine.place)
            else:
                dead.add(peer)

    def _is_there(self, peer: PeerId) -> bool:
        server = self.world.servers.get(peer)
        return server is not None and not server.is_cut and server.serving is not None


def true_cost(place: Place, hops: tuple[Hop, ...], servers: Servers) -> float:
    """Return what a decode step through `hops` takes on idle servers."""
    places = [place, *(server.machine.place for server in servers), place]
    network = sum(round_trip(one, other) / 2 for one, other in pairwise(places))
    compute = sum((hop.end - hop.start) / s.machine.speed for hop, s in zip(hops, servers, strict=True))
    return network + compute + len(hops) * Costs().hop_overhead


def best_cost(place: Place, servers: Servers, num_blocks: int) -> float:
    """Return what the best path through `servers` takes; infinite if a block has none."""
    xy = np.array([(s.machine.place.x, s.machine.place.y) for s in servers])
    access = np.array([s.machine.place.access for s in servers])
    spans = np.array([(s.serving.start, s.serving.end) for s in servers if s.serving is not None])
    per_block = 1 / np.array([s.machine.speed for s in servers])
    legs = np.hypot(*(xy - (place.x, place.y)).T) + access + place.access
    overhead = Costs().hop_overhead
    cost = np.full(len(servers), np.inf)
    for block in range(num_blocks):
        here = np.flatnonzero((spans[:, 0] <= block) & (block < spans[:, 1]))
        before = np.flatnonzero(np.isfinite(cost))
        entered = legs[here] + overhead
        if block:
            # From each server that ran the block before, to each that holds this one.
            far = np.hypot(*(xy[before, None, :] - xy[None, here, :]).transpose(2, 0, 1)) + access[before, None]
            entered = (cost[before, None] + far).min(axis=0, initial=np.inf) + access[here] + overhead
        arrived = np.full(len(servers), np.inf)
        arrived[here] = np.minimum(cost[here] if block else np.inf, entered) + per_block[here]
        cost = arrived
    return float((cost + legs).min(initial=np.inf))
