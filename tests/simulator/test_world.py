"""The simulated world: what the real placement does in it, and that the books are true."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.simulator import SimulatorConfig, servers
from swarm.simulator.samples import best_known
from swarm.simulator.scenarios import simulate
from swarm.simulator.world import World


def world_of(**flags: Any) -> World:
    return World(SimulatorConfig(**{"routes": 0, "lifetime": 0.0, "hours": 0.5, **flags}))


def serving(world: World) -> list[int]:
    """For each block how many servers serve it, counted again from the servers themselves."""
    spans = [server.serving for server in world.servers.values() if server.serving is not None]
    return [sum(block in span for span in spans) for block in range(world.config.blocks)]


def six(seed: int, *, minutes: float, ttl: float, monkeypatch: pytest.MonkeyPatch) -> World:
    """Six servers with 10 to 12 of 30 blocks each, that start in the same second and load fast."""
    monkeypatch.setattr(servers, "LOAD_BASE", 2.0)
    monkeypatch.setattr(servers, "LOAD_PER_BLOCK", (0.1, 0.5))
    world = world_of(servers=6, blocks=30, scenario="start", seed=seed, ttl=ttl, hours=minutes / 60)
    draw = servers.Machine.draw

    def drawn(chance: Any, *, num_blocks: int, share: float) -> servers.Machine:
        return replace(draw(chance, num_blocks=num_blocks, share=share), size=chance.randint(10, 12))

    monkeypatch.setattr(servers.Machine, "draw", drawn)
    for _ in range(6):
        world.at(world.chance.uniform(0, 1), lambda: world.arrive() and None)
    return world


@pytest.mark.parametrize("seed", range(8))
def test_six_that_start_at_once_converge_within_a_minute_and_stay(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = six(seed, minutes=6, ttl=60.0, monkeypatch=monkeypatch)
    seen: list[tuple[int, int]] = []
    for at in (60.0, 180.0, 360.0):
        world.at(at, lambda: seen.append((world.ledger.main.num_bare, world.ledger.num_announced)))
    world.run()
    assert [bare for bare, _ in seen] == [0, 0, 0]
    assert seen[0][1] == seen[1][1] == seen[2][1]  # nothing was announced: no move, and no wish
    assert world.ledger.moved_at == []


@pytest.mark.parametrize("seed", range(8))
def test_what_one_of_six_leaves_is_covered_again_in_half_a_minute(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = six(seed, minutes=5, ttl=10.0, monkeypatch=monkeypatch)
    seen: list[int] = []

    def lose() -> None:
        world.leave(min(world.servers.values(), key=lambda server: server.peer))

    for at in (60.0, 120.0, 180.0):  # from six to three, which can just hold the model, or just not
        world.at(at, lose)
        world.at(at + 30, lambda: seen.append(world.ledger.main.num_bare))
    world.run()
    able = sum(server.machine.size for server in world.servers.values()) >= 30
    assert seen[:2] == [0, 0] and (seen[2] == 0 or not able or seen[2] < 3)
    assert world.ledger.num_uncovering == 0


@settings(max_examples=5, deadline=None)
@given(st.integers(4, 40), st.integers(5, 40), st.integers(0, 1000), st.sampled_from([0.5, 1.0]))
def test_no_move_uncovers_a_block_whatever_comes_and_goes(num: int, blocks: int, seed: int, lifetime: float) -> None:
    config = SimulatorConfig(servers=num, blocks=blocks, seed=seed, hours=0.4, lifetime=lifetime, routes=0, span=0.3)
    world, _, _ = simulate(config)
    assert world.ledger.num_uncovering == 0
    counts = serving(world)
    assert world.ledger.main.counts == counts and world.ledger.main.num_bare == counts.count(0)
    assert world.ledger.main.num_alive == len(world.servers) == len(world.ledger.alive)


def test_a_swarm_that_nobody_joins_or_leaves_comes_to_rest() -> None:
    world, _, _ = simulate(SimulatorConfig(servers=12, blocks=30, hours=2.5, span=0.3, scenario="start", routes=0))
    assert all(at < 2 * 3600 for at in world.ledger.moved_at)
    assert world.ledger.num_uncovering == 0 and world.ledger.main.num_bare == 0


def test_equal_seeds_give_equal_swarms_and_others_do_not() -> None:
    one, two, other = (
        simulate(SimulatorConfig(servers=20, blocks=20, hours=0.3, lifetime=0.5, routes=2, seed=seed))
        for seed in (1, 1, 2)
    )
    assert one[1].bottleneck == two[1].bottleneck != other[1].bottleneck
    assert one[2].measured == two[2].measured


def test_a_region_that_is_cut_off_takes_its_servers_with_it_and_brings_them_back() -> None:
    world = world_of(servers=60, blocks=20)
    world.settle_down(60)
    seen: list[int] = []

    def look() -> None:
        seen.append(len(world.view().records))

    for at, event in ((10, look), (60, world.part), (65, look), (200, look), (600, world.mend), (700, look)):
        world.at(float(at), event)
    world.run()
    inside = sum(server.machine.place.city == "US East" for server in world.servers.values())
    assert 0 < inside < 60
    # Those cut off stay in the view until their records expire.
    assert seen == [60, 60, 60 - inside, 60]
    assert world.ledger.main.counts == serving(world)


def test_a_server_that_dies_stays_in_the_view_until_its_record_expires() -> None:
    world = world_of(servers=40, blocks=20, ttl=60.0)
    world.settle_down(40)
    seen: list[int] = []
    world.at(30, lambda: [world.leave(server) for server in list(world.servers.values())[:20]] and None)
    for at in (35.0, 95.0):
        world.at(at, lambda: seen.append(len(world.view().records)))
    world.run()
    assert 20 < seen[0] < 40 and seen[1] == 20


def test_the_reference_is_no_worse_than_a_placement_by_turns_and_no_better_than_the_bound() -> None:
    sizes, speeds = np.array([4, 4, 4, 4]), np.array([400.0, 400.0, 400.0, 400.0])
    assert best_known(sizes, speeds, 8) == pytest.approx(200.0)
    assert best_known(sizes[:1], speeds[:1], 8) == 0.0
