"""Routes through a simulated swarm: what a client finds with what it can know, against the best there is.

The client is somewhere, reads the directory as it is then (late by a store, with dead servers that have not
expired), samples it, pings some servers that may be its first or last hop, and calls the real `find_route`. Who is
dead it finds out by dialling, and routes again without. What that route takes in truth is compared with the
shortest path through all servers that serve at that moment, with all true distances and speeds, by a search that
may even pass a server twice: a bound that no route can beat.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from swarm.planning import Costs, find_route, sample
from swarm.simulator.links import Place, round_trip
from swarm.simulator.servers import SimulatedServer
from swarm.simulator.world import World
from swarm.types import Hop, PeerId, Span

PINGED = 48
"""Servers that a client measures before it chooses."""

MAX_DIALS = 20
"""Routes tried until one has no dead server."""

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
        costs = Costs.of(view)
        few = sample(view, span, costs)
        ends = [r for r in few.records if r.span.start == 0 or r.span.end == span.end]
        pinged = [server for r in ends[:PINGED] if (server := world.servers.get(r.peer)) is not None]
        to_client = {server.peer: round_trip(place, server.machine.place) for server in pinged}
        costs = Costs.of(view, to_client)
        few = sample(view, span, costs)
        dead: set[PeerId] = set()
        for _ in range(MAX_DIALS):
            hops = find_route(few, span, costs, excluded=dead)
            if hops is None and few is not view:
                few = view  # the sample's servers are dead: look at all
                continue
            lost = {hop.peer for hop in hops or () if not self._is_there(hop)}
            if not lost:
                return hops or (), len(dead)
            dead |= lost
        return (), len(dead)

    def _is_there(self, hop: Hop) -> bool:
        server = self.world.servers.get(hop.peer)
        if server is None or server.is_cut or server.serving is None:
            return False
        return server.serving.covers(hop.span)


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
