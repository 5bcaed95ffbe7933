"""Ten thousand short requests: no page, no byte and no patience is lost on the way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm import AutoModelForCausalLM
from swarm.blocks.native import kernel_name
from swarm.blocks.native.binding import TORCH
from swarm.demo.processes import LocalSwarm, local_swarm
from tests.swarm.asking import Inspector

pytestmark = pytest.mark.long

NUM_REQUESTS, AT_A_TIME = 10_000, 32


@pytest.fixture
def native_swarm(tiny_folder: Path, tmp_path: Path) -> Iterator[LocalSwarm]:
    """Two servers with the native kernels; torch's own float32 keeps a primitive for each number of rows it has met."""
    if kernel_name() == TORCH:
        pytest.skip("the native kernels are not built")
    flags = ["--dtype", "bfloat16", "--threads", "1"]
    with local_swarm(("0:4", "4:6"), model=str(tiny_folder), server_flags=flags, logs=tmp_path) as swarm:
        yield swarm


async def test_ten_thousand_requests_leave_the_servers_as_they_were(
    native_swarm: LocalSwarm, tiny_folder: Path
) -> None:
    model = await asyncio.to_thread(
        AutoModelForCausalLM.from_pretrained, tiny_folder, initial_peers=[native_swarm.addr]
    )
    dice = random.Random(3)
    left, halves = NUM_REQUESTS, list[list[int]]()

    async def user(inspector: Inspector) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            if left == NUM_REQUESTS // 2:
                halves.append(inspector.resident())
            prompt = [dice.randrange(3, 128) for _ in range(dice.randrange(2, 40))]
            answer = [token async for token in model.stream(prompt, max_new_tokens=4, eos_token_id=[])]
            assert len(answer) == 4

    async with Inspector(native_swarm) as inspector:
        await asyncio.gather(*(user(inspector) for _ in range(AT_A_TIME)))
        halves.append(inspector.resident())
        await inspector.wait_empty(5)
        for stats in await inspector.stats():
            assert (stats.pages_used, stats.waiting, stats.num_busy) == (0, 0, 0)
    for middle, end in zip(*halves, strict=True):
        assert end - middle <= 0.02 * middle
