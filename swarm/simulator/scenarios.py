"""What happens to a simulated swarm, and when."""

from __future__ import annotations

from swarm.simulator.config import SimulatorConfig
from swarm.simulator.routes import RouteMeter
from swarm.simulator.samples import Samples
from swarm.simulator.world import World

MASS_DEPARTURE = 0.3
"""Share of the servers that leave in the same second."""

CROWD = 0.5
"""New servers of a flash crowd, as a share of those that are there."""

CROWD_SECONDS = 60.0
"""Within which a crowd comes."""

START_SECONDS = 1.0
"""Within which all begin in the scenario `start`."""


def simulate(config: SimulatorConfig) -> tuple[World, Samples, RouteMeter]:
    """Run one simulated swarm from beginning to end."""
    world = World(config)
    samples, routes = Samples(world), RouteMeter(world)
    if config.scenario == "start":
        for _ in range(config.servers):
            world.at(world.chance.uniform(0, START_SECONDS), lambda: _arrive(world))
    else:
        world.settle_down(config.servers)
        if config.lifetime > 0:
            _let_come(world)
    _disturb(world)
    interval = config.seconds / max(1, config.routes)
    for index in range(config.routes):
        world.at((index + 0.5) * interval, routes.measure)
    samples.begin()
    world.run()
    return world, samples, routes


def disturbed(config: SimulatorConfig) -> tuple[float, float] | None:
    """Return the seconds at which what the scenario brings begins and ends; None if it brings nothing."""
    begin = config.seconds / 3
    lasting = {"departure": 0.0, "crowd": CROWD_SECONDS, "region": config.seconds / 6}
    return (begin, begin + lasting[config.scenario]) if config.scenario in lasting else None


def _disturb(world: World) -> None:
    if (times := disturbed(world.config)) is None:
        return
    begin, end = times
    if world.config.scenario == "departure":
        world.at(begin, lambda: _leave_at_once(world))
    elif world.config.scenario == "crowd":
        for _ in range(round(CROWD * world.config.servers)):
            world.at(world.chance.uniform(begin, end), lambda: _arrive(world))
    else:
        world.at(begin, world.part)
        world.at(end, world.mend)


def _let_come(world: World) -> None:
    """Let servers come as often as they leave."""
    rate = world.config.servers / (3600 * world.config.lifetime)

    def come() -> None:
        world.arrive()
        world.at(world.seconds + world.chance.expovariate(rate), come)

    world.at(world.chance.expovariate(rate), come)


def _arrive(world: World) -> None:
    world.arrive()


def _leave_at_once(world: World) -> None:
    alive = list(world.servers.values())
    for server in world.chance.sample(alive, round(MASS_DEPARTURE * len(alive))):
        world.leave(server)
