"""Ten thousand short requests: no page, no byte and no patience is lost on the way."""

from __future__ import annotations

import asyncio
import random

import pytest

from swarm.client import SwarmForCausalLM
from swarm.demo.processes import LocalSwarm
from tests.swarm.asking import Inspector

pytestmark = pytest.mark.long

NUM_REQUESTS, AT_A_TIME = 10_000, 32


async def test_ten_thousand_requests_leave_the_servers_as_they_were(
    tiny: SwarmForCausalLM, tiny_swarm: LocalSwarm
) -> None:
    dice = random.Random(3)
    left, halves = NUM_REQUESTS, list[list[int]]()

    async def user(inspector: Inspector) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            if left == NUM_REQUESTS // 2:
                halves.append(inspector.resident())
            prompt = [dice.randrange(3, 128) for _ in range(dice.randrange(2, 40))]
            answer = [token async for token in tiny.stream(prompt, max_new_tokens=4, eos_token_id=[])]
            assert len(answer) == 4

    async with Inspector(tiny_swarm) as inspector:
        await asyncio.gather(*(user(inspector) for _ in range(AT_A_TIME)))
        halves.append(inspector.resident())
        await inspector.wait_empty(5)
        for stats in await inspector.stats():
            assert (stats.pages_used, stats.waiting, stats.num_busy) == (0, 0, 0)
    for middle, end in zip(*halves, strict=True):
        assert end - middle <= 0.02 * middle
