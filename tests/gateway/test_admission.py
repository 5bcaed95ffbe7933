"""Who waits for how long, what can never be let in, and what a request that came to nothing costs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from swarm.client import Timeouts
from swarm.errors import BlocksMissing, Busy, HopFailed
from swarm.gateway import admission
from swarm.gateway.admission import Admission
from swarm.gateway.faults import Refused
from swarm.gateway.limits import Allowance
from swarm.wire.rows import TRY_BITS
from tests.client.digest_swarm import CONTEXT, DigestSwarm, on_bridge
from tests.gateway.digest_gateway import digest_gateway
from tests.gateway.test_app import BODY, ask, wait_until


@pytest.fixture
def swarm() -> Iterator[DigestSwarm]:
    with on_bridge(DigestSwarm()) as swarm:
        yield swarm


async def test_texts_wait_behind_their_own_request_for_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PATIENCE", 0.1)
    house = Admission(max_running=2, max_waiting=10)
    release = asyncio.Event()

    async def write(party: admission.Party) -> None:
        async with party.turn():
            await release.wait()

    with house.enter(4) as ours, house.enter(2) as theirs:
        texts = [asyncio.create_task(write(ours)) for _ in range(4)]
        await asyncio.sleep(0.02)
        others = [asyncio.create_task(write(theirs)) for _ in range(2)]
        late = asyncio.create_task(write(ours))
        await asyncio.sleep(0.3)
        refused = await asyncio.gather(*others, return_exceptions=True)
        assert [isinstance(each, Refused) and each.status for each in refused] == [503, 503], "none of theirs began"
        assert (house.num_running, house.num_inside, house.num_waiting) == (2, 6, 4)
        release.set()
        await asyncio.gather(*texts, late)
        async with theirs.turn():  # no turn was lost
            assert house.num_running == 1
    assert house.num_inside == house.num_running == 0


async def test_a_request_that_could_never_fit_is_not_told_to_try_again(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm, max_running=2, max_waiting=3) as (session, _):
        status, body, headers = await ask(session, {**BODY, "n": 6, "max_tokens": 2})
        assert (status, body["error"]["code"], body["error"]["param"]) == (400, "invalid_value", "n")
        assert "5 are the most" in body["error"]["message"] and "Retry-After" not in headers
        assert (await ask(session, {**BODY, "n": 5, "max_tokens": 2}))[0] == 200


async def test_a_prompt_that_nothing_came_of_costs_nothing() -> None:
    with on_bridge(DigestSwarm(timeouts=Timeouts(busy=0.1))) as swarm:
        allowance = Allowance(tokens_per_day=53 + 20, tokens_per_minute=53 + 20)
        async with digest_gateway(swarm, allowance=allowance) as (session, _):

            async def status(body: Any = BODY) -> int:
                return int((await ask(session, body))[0])

            assert await status({**BODY, "max_tokens": CONTEXT}) == 400
            swarm.missing = BlocksMissing("nobody serves blocks 2:4 of digest")
            assert await status() == await status({**BODY, "stream": True}) == await status({**BODY, "n": 2}) == 503
            swarm.missing = None
            swarm.fails = lambda step: Busy("no pages", retry_after=3)
            assert await status() == 503
            swarm.fails = lambda step: HopFailed("out of paper")
            assert await status() == 502
            swarm.fails = lambda step: None
            assert await status() == 200
            assert await status() == 429, "that one counts"


async def test_a_prompt_whose_answer_began_is_paid_for_and_so_is_one_whose_reader_left(swarm: DigestSwarm) -> None:
    allowance = Allowance(tokens_per_day=53 + 53)
    async with digest_gateway(swarm, allowance=allowance) as (session, gateway):
        swarm.fails = lambda step: HopFailed("out of paper") if step.step >> TRY_BITS == 15 else None
        assert (await ask(session))[0] == 502
        assert (await ask(session))[0] == 429, "8 tokens were made"
    async with digest_gateway(swarm, allowance=allowance) as (session, gateway):
        swarm.is_silent = True
        request = asyncio.create_task(ask(session))
        await wait_until(lambda: swarm.num_open > 0)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        await wait_until(lambda: gateway.house.admission.num_inside == 0)
        swarm.is_silent, swarm.fails = False, lambda step: None
        assert (await ask(session))[0] == 200 and (await ask(session))[0] == 429
