"""Sessions move when it pays, servers worth knowing are known: real ends under a virtual clock."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from swarm.blocks import Checkpoint, open_checkpoint
from swarm.client.scouting import MAX_SCOUTED, PER_BLOCK, worth_knowing
from swarm.types import Reach, ServerState, Span
from tests.builders import make_llama
from tests.client.test_failover import PROMPT, go_on, names, opened, undisturbed
from tests.planning.views import record, view
from tests.virtual import VirtualSwarm, run_swarm


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = tmp_path_factory.mktemp("moving") / "tiny"
    make_llama(folder, 3, num_blocks=6)
    return open_checkpoint(str(folder))


@pytest.mark.parametrize("is_much_better", [True, False])
def test_a_session_moves_to_a_much_better_route_and_to_no_other(tiny: Checkpoint, is_much_better: bool) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        for name, start, end in (("first", 0, 2), ("second", 2, 4), ("third", 4, 6)):
            swarm.serve(name, start, end)
        expected = await undisturbed(swarm, 140)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 60)
        if is_much_better:
            swarm.serve("all", 0, 6)
        else:
            swarm.serve("as good", 2, 4)
        for _ in range(8):
            tokens = await go_on(swarm, client, session, tokens, 10)
            await asyncio.sleep(4)
        assert tokens == expected
        if is_much_better:
            assert names(swarm, session) == ["all"] and session.num_mends == 1
            assert "all" not in str(client.routes.bans.now(swarm.net.now))
            assert not client.routes.bans.now(swarm.net.now), "nobody did anything wrong"
        else:
            assert session.num_mends == 0

    run_swarm(story, tiny, delay=0.05)


def test_a_first_route_goes_through_the_servers_that_are_near(tiny: Checkpoint) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        for name, delay in (("far", 0.4), ("near", 0.002), ("midway", 0.1)):
            swarm.serve(name, 0, 6)
            swarm.net.set("client", name, delay=delay)
        began = swarm.net.now
        _, session = await opened(swarm)
        assert names(swarm, session) == ["near"]
        assert swarm.net.now - began < 1.5, "who is far does not hold up the first route for long"

    run_swarm(story, tiny)


def test_a_spare_is_known_before_it_is_needed(tiny: Checkpoint) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        for name, start, end in (("first", 0, 3), ("second", 3, 6), ("spare", 3, 6)):
            swarm.serve(name, start, end, decode_per_s=10.0 if name == "spare" else 1000.0)
        client, _ = await opened(swarm)
        await asyncio.sleep(1)
        assert client._peer is not None
        assert len({channel.remote for channel in client._peer.channels}) == 3

    run_swarm(story, tiny, delay=0.02)


def test_of_each_block_the_fastest_few_are_worth_knowing() -> None:
    servers = [record(f"s{index}", 0, 10, decode_per_s=100.0 * index) for index in range(6)]
    servers += [record("high", 10, 30), record("hidden", 10, 30, reach=Reach.UNREACHABLE)]
    servers += [record("leaving", 10, 30, state=ServerState.DRAINING)]
    wanted = worth_knowing(view(*servers), Span(0, 30), known=())
    assert {found.peer for found in wanted} == {"high", "s5", "s4", "s3"} and PER_BLOCK == 3
    wanted = worth_knowing(view(*servers), Span(0, 30), known={"s0", "s1", "high"})
    assert {found.peer for found in wanted} == {"s5"}, "those known are counted"
    many = [record(f"s{index}", index % 30, index % 30 + 1) for index in range(300)]
    assert len(worth_knowing(view(*many), Span(0, 30), known=())) == MAX_SCOUTED
