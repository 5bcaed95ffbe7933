"""What the simulator measures of routes: against all paths of a small swarm."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from swarm.simulator import SimulatorConfig
from swarm.simulator.links import Place, round_trip
from swarm.simulator.routes import best_cost, true_cost
from swarm.simulator.scenarios import simulate
from swarm.simulator.servers import SimulatedServer
from swarm.simulator.world import World
from swarm.types import Hop, Span


def all_routes(servers: list[SimulatedServer], num_blocks: int) -> list[tuple[Hop, ...]]:
    """Each way in which blocks can be shared out, neighbours on one server joined."""
    routes = []
    for choice in product(servers, repeat=num_blocks):
        if all(server.serving is not None and block in server.serving for block, server in enumerate(choice)):
            cuts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(choice)) if a is not b), num_blocks]
            routes.append(tuple(Hop(choice[start].peer, start, end) for start, end in pairwise(cuts)))
    return routes


@pytest.mark.parametrize("seed", range(4))
def test_the_best_path_is_the_cheapest_of_all(seed: int) -> None:
    world = World(SimulatorConfig(servers=5, blocks=5, hours=0.1, span=0.6, lifetime=0.0, routes=0, seed=seed))
    world.settle_down(5)
    servers, place = list(world.servers.values()), Place.draw(world.chance)
    costs = [true_cost(place, hops, [world.servers[hop.peer] for hop in hops]) for hops in all_routes(servers, 5)]
    assert best_cost(place, servers, 5) == pytest.approx(min(costs))


def test_no_route_is_faster_than_the_best_path_and_most_are_near() -> None:
    _, _, routes = simulate(SimulatorConfig(servers=60, blocks=24, hours=0.3, lifetime=2.0, routes=12))
    ratios = sorted(route.taken / route.best for route in routes.measured)
    assert len(ratios) == 12 and routes.num_failed == 0
    assert ratios[0] > 0.999 and ratios[6] < 1.2


def test_true_costs_are_sums_of_legs_compute_and_overhead() -> None:
    here = Place(city="Europe", x=0.0, y=0.0, access=0.001)
    world = World(SimulatorConfig(servers=1, blocks=4, hours=0.1, span=1.0, lifetime=0.0, routes=0))
    world.settle_down(1)
    server = next(iter(world.servers.values()))
    assert server.serving == Span(0, server.machine.size)
    cost = true_cost(here, (Hop(server.peer, 0, 2),), [server])
    assert cost == pytest.approx(round_trip(here, server.machine.place) + 2 / server.machine.speed + 0.001)
