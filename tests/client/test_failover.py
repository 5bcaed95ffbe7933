"""Hops die, freeze, fail and leave in the middle of sessions: real ends, a virtual clock, outputs as undisturbed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from swarm.blocks import Checkpoint, open_checkpoint
from swarm.client import Timeouts
from swarm.client.connection import Connection
from swarm.client.session import Session
from swarm.errors import BadResult, BlocksMissing, HopFailed, HopRefused, SessionLost, SwarmError
from swarm.types import ServerState, Span
from swarm.wire import Row
from tests.builders import make_llama, some_ids
from tests.virtual import VirtualSwarm, run_swarm

NUM_BLOCKS = 6
CLOSE = {"rtol": 0.0, "atol": 2e-4}
"""A replay runs tokens in other batches than the first time: float32 sums differ in their last bits."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = tmp_path_factory.mktemp("failover") / "tiny"
    make_llama(folder, 3, num_blocks=NUM_BLOCKS)
    return open_checkpoint(str(folder))


PROMPT = some_ids(21, seed=7).clamp(min=3).tolist()
Story = Callable[[VirtualSwarm, Connection, Session], Awaitable[None]]


def three(swarm: VirtualSwarm) -> None:
    for name, start, end in (("first", 0, 2), ("second", 2, 4), ("third", 4, 6)):
        swarm.serve(name, start, end)


async def opened(swarm: VirtualSwarm, name: str = "client", **config: object) -> tuple[Connection, Session]:
    client = swarm.client(name, **config)
    return client, await client.open_session(swarm.model, Span(0, NUM_BLOCKS))


def names(swarm: VirtualSwarm, session: Session) -> list[str]:
    return [swarm.net.name(hop.peer) for hop in session.hops]


async def undisturbed(swarm: VirtualSwarm, new_tokens: int) -> list[int]:
    client, session = await opened(swarm, "undisturbed")
    tokens = await swarm.generate(client, session, PROMPT, new_tokens)
    client.forget(session)
    return tokens


async def go_on(
    swarm: VirtualSwarm, client: Connection, session: Session, tokens: list[int], new_tokens: int
) -> list[int]:
    """Continue a text whose last token was not fed yet."""
    for _ in range(new_tokens):
        position = len(PROMPT) + len(tokens) - 1
        logits = await swarm.step(client, session, tokens[-1:], position=position)
        tokens = [*tokens, int(logits.argmax())]
    return tokens


@pytest.mark.parametrize("lost", ["first", "second", "third"])
@pytest.mark.parametrize("how", ["kill", "cut", "drop"])
@pytest.mark.parametrize("spares", [((0, 6),), ((0, 2), (2, 4), (4, 6)), ((0, 3), (1, 3), (3, 5), (2, 5), (4, 6))])
def test_a_lost_hop_is_replaced_whatever_the_boundaries(
    tiny: Checkpoint, lost: str, how: str, spares: tuple[tuple[int, int], ...]
) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 8)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 4)
        for index, (start, end) in enumerate(spares):
            swarm.serve(f"spare{index}", start, end)
        began = swarm.net.now
        if how == "kill":
            await swarm.kill(lost)
        elif how == "cut":
            swarm.net.cut(lost)
        else:
            swarm.net.drop(lost, "client")
        tokens = await go_on(swarm, client, session, tokens, 1)
        pause = swarm.net.now - began
        assert pause < (4.0 if how == "cut" else 0.3), pause
        assert await go_on(swarm, client, session, tokens, 3) == expected
        kept = [name for name in ("first", "second", "third") if name != lost]
        assert session.num_mends == 1 and lost not in names(swarm, session)
        if spares != ((0, 6),) or lost == "second":
            assert [name for name in names(swarm, session) if name in kept] == kept, "only the lost blocks move"

    run_swarm(story, tiny, delay=0.005)


def test_neighbours_and_hops_far_apart_may_die_at_once(tiny: Checkpoint) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 9)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 3)
        for index, (start, end) in enumerate(((0, 3), (3, 6), (2, 4), (0, 2), (4, 6))):
            swarm.serve(f"spare{index}", start, end)
        await asyncio.gather(swarm.kill("second"), swarm.kill("third"))
        tokens = await go_on(swarm, client, session, tokens, 3)
        first, last = names(swarm, session)[0], names(swarm, session)[-1]
        await asyncio.gather(swarm.kill(first), swarm.kill(last))
        assert await go_on(swarm, client, session, tokens, 3) == expected

    run_swarm(story, tiny)


@pytest.mark.parametrize("seconds", [0.004, 0.012, 0.02, 0.03])
def test_a_replacement_may_die_while_it_is_brought_up_to_date(tiny: Checkpoint, seconds: float) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 6)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 3)
        swarm.serve("spare", 2, 4, seconds=0.005)
        swarm.serve("slow spare", 2, 4, seconds=0.005, decode_per_s=10.0)
        await swarm.kill("second")
        going_on = asyncio.create_task(go_on(swarm, client, session, tokens, 3))
        await asyncio.sleep(seconds)
        await swarm.kill("spare")
        assert await going_on == expected
        assert names(swarm, session) == ["first", "slow spare", "third"]

    run_swarm(story, tiny)


@pytest.mark.parametrize("seconds", [0.002, 0.01, 0.03, 0.05])
@pytest.mark.parametrize("lost", ["first", "second", "third"])
def test_a_hop_may_die_in_the_middle_of_a_prompt(tiny: Checkpoint, lost: str, seconds: float) -> None:
    prompt = some_ids(120, seed=3).clamp(min=3).tolist()

    async def story(swarm: VirtualSwarm) -> None:
        for name, start, end in (("first", 0, 2), ("second", 2, 4), ("third", 4, 6)):
            swarm.serve(name, start, end, seconds=0.003)
        client, session = await opened(swarm)
        expected = await swarm.generate(client, session, prompt, 3)
        client, session = await opened(swarm, "another")
        for index, (start, end) in enumerate(((0, 1), (1, 3), (3, 6), (2, 4), (0, 3))):
            swarm.serve(f"spare{index}", start, end)
        going_on = asyncio.create_task(swarm.generate(client, session, prompt, 3))
        await asyncio.sleep(seconds)
        await swarm.kill(lost)
        assert await going_on == expected
        assert session.num_mends >= 1

    run_swarm(story, tiny)


class Script:
    """Random steps of some sequences, with forks, roll-backs and prompts: the same for the same seed."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.steps: list[tuple[list[Row], Tensor]] = []
        lengths = {0: 0, 1: 0}
        for number in range(14):
            before = dict(lengths)
            rows, total = [], 0
            for sequence in range(2 if number == 0 else rng.choice([2, 3, 4])):
                source = sequence
                if number and (sequence not in before or rng.random() < 0.4):
                    source = rng.choice(list(before))
                position = before[source]
                if rng.random() < 0.2:
                    position = rng.randint(0, position)
                length = rng.choice([5, 12, 20]) if number == 0 else rng.choice([1, 1, 1, 3, 10])
                rows.append(Row(sequence, source, position, length, rng.randint(0, length)))
                lengths[sequence] = position + length
                total += length
            self.steps.append((rows, torch.randn(total, 64, generator=torch.Generator().manual_seed(seed + number))))

    async def run(self, client: Connection, session: Session) -> list[Tensor]:
        return [await client.step(session, rows, hidden) for rows, hidden in self.steps]


def test_forks_roll_backs_and_batches_survive_random_deaths(tiny: Checkpoint) -> None:
    deaths: list[int] = []
    for seed in range(8):
        random_deaths(tiny, seed, deaths)
    assert sum(deaths) > 16 and max(deaths) > 2, "else nothing was tried"


def random_deaths(tiny: Checkpoint, seed: int, deaths: list[int]) -> None:
    script, rng = Script(seed), random.Random(seed)

    async def story(swarm: VirtualSwarm) -> None:
        for index in range(9):
            start = rng.choice([0, 0, 1, 2, 3, 4])
            end = rng.randint(start + 1, NUM_BLOCKS)
            swarm.serve(f"extra{index}", start, end, seconds=0.002)
        for index in range(2):
            swarm.serve(f"low{index}", 0, 3, seconds=0.002)
            swarm.serve(f"high{index}", 3, 6, seconds=0.002)
        client, session = await opened(swarm, chunk_tokens=7)
        expected = await script.run(client, session)
        began = swarm.net.now
        client, session = await opened(swarm, "another", chunk_tokens=7)
        running = asyncio.create_task(script.run(client, session))
        while not running.done():
            await asyncio.sleep(rng.random() * 0.04)
            victims = [name for name in names(swarm, session) if name in swarm.servers and name != "low1"]
            victims = [name for name in victims if name != "high1"]
            if victims and not running.done():
                victim = rng.choice(victims)
                if rng.random() < 0.7:
                    await swarm.kill(victim)
                else:
                    swarm.net.drop(victim, "another")
        outputs = await running
        deaths.append(session.num_mends)
        for output, wanted in zip(outputs, expected, strict=True):
            torch.testing.assert_close(output, wanted, **CLOSE)
        assert swarm.net.now - began < 20

    run_swarm(story, tiny, jitter=0.002, seed=seed)


def test_all_clients_of_a_dead_server_go_on(tiny: Checkpoint) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 6)
        pairs = [await opened(swarm, f"client{index}") for index in range(5)]
        begun = await asyncio.gather(*(swarm.generate(*pair, PROMPT, 3) for pair in pairs))
        swarm.serve("spare", 2, 4)
        await swarm.kill("second")
        went_on = await asyncio.gather(
            *(go_on(swarm, *pair, tokens, 3) for pair, tokens in zip(pairs, begun, strict=True))
        )
        assert went_on == [expected] * 5

    run_swarm(story, tiny)


def test_who_never_takes_a_session_is_named_with_the_blocks(tiny: Checkpoint) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        client, session = await opened(swarm, timeouts=Timeouts(mend=5, coverage=60))
        tokens = await swarm.generate(client, session, PROMPT, 3)
        spare = swarm.serve("spare", 2, 4)
        swarm.net.cut("client", "spare")
        await swarm.kill("second")
        began = swarm.net.now
        with pytest.raises(BlocksMissing, match=rf"blocks 2:4 of .*{spare.record.peer} did not take the session"):
            await go_on(swarm, client, session, tokens, 3)
        assert 4 < swarm.net.now - began < 12

    run_swarm(story, tiny)


def test_a_session_goes_on_when_a_holder_returns_and_else_the_error_names_the_blocks(tiny: Checkpoint) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 6)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 3)
        await swarm.kill("second")
        began = swarm.net.now
        with pytest.raises(BlocksMissing, match=r"blocks 2:4 of .*start a server"):
            await go_on(swarm, client, session, tokens, 3)
        assert swarm.net.now - began < 10
        going_on = asyncio.create_task(go_on(swarm, client, session, tokens, 3))
        await asyncio.sleep(4)
        swarm.serve("returned", 2, 4)
        assert await going_on == expected, "and the same session can be used after the error"

    run_swarm(story, tiny)


@pytest.mark.parametrize("is_open", [True, False], ids=["in a session", "before one"])
def test_the_only_holder_is_found_again_when_it_returns_with_the_same_key(tiny: Checkpoint, is_open: bool) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 6)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 3)
        await swarm.kill("second")  # its record is still seen: it is dialled in vain first
        waiting = go_on(swarm, client, session, tokens, 3) if is_open else opened(swarm, "late")
        task = asyncio.create_task(waiting)
        await asyncio.sleep(3.5)
        assert not task.done()
        swarm.serve("second", 2, 4)
        began = swarm.net.now
        result = await task
        assert swarm.net.now - began < 4.5
        if is_open:
            assert result == expected

    run_swarm(story, tiny)


def test_the_only_holder_may_freeze_for_a_while_and_then_have_its_session_back(tiny: Checkpoint) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 9)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 3)
        for _ in range(2):
            swarm.net.cut("second")
            going_on = asyncio.create_task(go_on(swarm, client, session, tokens, 3))
            await asyncio.sleep(4.5)
            assert not going_on.done()
            swarm.net.mend("second")
            began = swarm.net.now
            tokens = await going_on
            assert swarm.net.now - began < 2.0
        assert tokens == expected

    run_swarm(story, tiny)


@pytest.mark.parametrize("leaving", ["first", "second", "third"])
def test_a_server_that_leaves_hands_its_sessions_over(tiny: Checkpoint, leaving: str) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 8)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 3)
        swarm.serve("spare", 0, 6)
        server = swarm.servers[leaving]
        server.state = ServerState.DRAINING
        server.handler.hand_over()
        tokens = await go_on(swarm, client, session, tokens, 2)
        assert leaving not in names(swarm, session)
        await asyncio.sleep(0.1)
        assert len(server.sessions) == 0
        await swarm.kill(leaving)
        assert await go_on(swarm, client, session, tokens, 3) == expected and session.num_mends == 1

    run_swarm(story, tiny)


def test_a_server_whose_place_nobody_can_take_serves_on_while_it_leaves(tiny: Checkpoint) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 6)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 3)
        swarm.servers["second"].state = ServerState.DRAINING
        swarm.servers["second"].handler.hand_over()
        began = swarm.net.now
        assert await go_on(swarm, client, session, tokens, 3) == expected
        assert swarm.net.now - began < 1 and session.num_mends == 0

    run_swarm(story, tiny)


@pytest.mark.parametrize("error", [HopFailed("it broke"), HopRefused("no"), SessionLost("which?")])
def test_a_hop_that_says_no_is_replaced(tiny: Checkpoint, error: SwarmError) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 6)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 3)
        swarm.serve("spare", 2, 4, decode_per_s=10.0)
        handler, refuse = swarm.servers["second"].handler, handler_step(swarm, "second")

        def fails_once(message: object, body: bytearray) -> None:
            handler._step = refuse  # type: ignore[method-assign]
            raise error

        handler._step = fails_once  # type: ignore[method-assign]
        assert await go_on(swarm, client, session, tokens, 3) == expected
        # Who lost the session, and nothing else, is as good as before.
        assert names(swarm, session)[1] == ("second" if isinstance(error, SessionLost) else "spare")

    run_swarm(story, tiny)


def handler_step(swarm: VirtualSwarm, name: str) -> Callable[..., None]:
    return swarm.servers[name].handler._step


@pytest.mark.parametrize("bad", ["first", "second", "third"])
def test_who_sends_numbers_that_are_none_is_replaced_and_not_who_says_so(tiny: Checkpoint, bad: str) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 6)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 3)
        swarm.serve("spare", 0, 6, decode_per_s=10.0)
        stack = swarm.servers[bad].engine._stack
        forward = stack.forward
        stack.forward = lambda *words, **options: forward(*words, **options) * torch.nan  # type: ignore[method-assign]
        assert await go_on(swarm, client, session, tokens, 3) == expected
        assert bad not in names(swarm, session)

    run_swarm(story, tiny)


def test_what_no_hop_can_do_better_is_told_at_once(tiny: Checkpoint) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        client, session = await opened(swarm)
        began = swarm.net.now
        with pytest.raises(BadResult, match="not finite"):
            await client.step(session, [Row(0, 0, 0, 1, 1)], torch.full((1, 64), torch.inf))
        with pytest.raises(HopRefused, match="beyond the 256"):
            await client.step(session, [Row(0, 0, 250, 10, 1)], torch.zeros(10, 64))
        assert swarm.net.now - began < 1

    run_swarm(story, tiny)


@pytest.mark.parametrize("lost", ["second", "third"])
def test_when_an_outbox_was_given_up_the_client_sends_it_all_again(tiny: Checkpoint, lost: str) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 8)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 3)
        swarm.serve("spare", 2, 6)
        for name in ("first", "second"):
            for held in swarm.servers[name].sessions:
                held.outbox.give_up()
        await swarm.kill(lost)
        assert await go_on(swarm, client, session, tokens, 5) == expected

    run_swarm(story, tiny)


def test_a_link_between_servers_that_breaks_once_is_dialled_again_and_one_that_stays_down_is_avoided(
    tiny: Checkpoint,
) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 9)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 3)
        swarm.serve("spare", 2, 4, decode_per_s=10.0)
        swarm.net.drop("first", "second")
        tokens = await go_on(swarm, client, session, tokens, 3)
        assert names(swarm, session) == ["first", "second", "third"]
        swarm.net.cut("first", "second")
        assert await go_on(swarm, client, session, tokens, 3) == expected
        assert names(swarm, session)[1] == "spare"

    run_swarm(story, tiny)


def test_a_replacement_that_the_hop_before_cannot_reach_is_passed_over(tiny: Checkpoint) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 6)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 3)
        swarm.serve("near spare", 2, 4)
        swarm.serve("far spare", 2, 4, decode_per_s=10.0)
        swarm.net.cut("first", "near spare")
        await swarm.kill("second")
        assert await go_on(swarm, client, session, tokens, 3) == expected
        assert names(swarm, session)[1] == "far spare"

    run_swarm(story, tiny)


def test_a_living_neighbour_may_take_over_with_the_whole_route_made_anew(tiny: Checkpoint) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        swarm.serve("low", 0, 4, decode_per_s=100.0)
        swarm.serve("high", 2, 6, decode_per_s=1000.0)
        expected = await undisturbed(swarm, 6)
        client, session = await opened(swarm)
        assert [str(hop.span) for hop in session.hops] == ["0:2", "2:6"]
        tokens = await swarm.generate(client, session, PROMPT, 3)
        swarm.serve("top", 4, 6)
        await swarm.kill("high")
        assert await go_on(swarm, client, session, tokens, 3) == expected
        assert names(swarm, session) == ["low", "top"] and session.hops[0].end == 4

    run_swarm(story, tiny)


def test_the_dead_are_left_alone_and_asked_again_later(tiny: Checkpoint) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        client, session = await opened(swarm)
        swarm.serve("spare", 2, 4, decode_per_s=10.0)
        tokens = await swarm.generate(client, session, PROMPT, 2)
        await swarm.kill("second")
        await go_on(swarm, client, session, tokens, 1)
        again = await client.open_session(swarm.model, Span(0, NUM_BLOCKS))
        assert names(swarm, again)[1] == "spare"
        assert isinstance(client.routes.bans.now(swarm.net.now), dict)

    run_swarm(story, tiny)


def test_a_cancelled_step_leaves_a_session_that_can_be_gone_on_with(tiny: Checkpoint) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        three(swarm)
        expected = await undisturbed(swarm, 6)
        client, session = await opened(swarm)
        tokens = await swarm.generate(client, session, PROMPT, 3)
        swarm.serve("spare", 2, 4)
        for seconds in (0.001, 0.01, 0.02, 0.03):
            if seconds == 0.01:
                await swarm.kill("second")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(go_on(swarm, client, session, tokens, 50), seconds)
        assert await go_on(swarm, client, session, tokens, 3) == expected

    run_swarm(story, tiny, delay=0.005)
