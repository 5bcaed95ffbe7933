"""What a text is does not depend on its company: many sessions that come and go, and more of them than fit."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm import AutoModelForCausalLM
from swarm.blocks.native import kernel_name
from swarm.blocks.native.binding import TORCH
from swarm.client import SwarmForCausalLM
from swarm.demo.processes import LocalSwarm, local_swarm
from tests.swarm.asking import Inspector
from tests.swarm.reference import FP32

pytestmark = pytest.mark.slow

NOTHING = 49151
"""A token that the bundled model never says: as the end of a text it makes all as long as asked."""


@pytest.fixture(
    scope="module", params=[*(pytest.param(each, marks=pytest.mark.long) for each in ("none", "int8")), "int4"]
)
def quantised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwarmForCausalLM]:
    """The bundled model over three servers, in formats whose rows do not depend on each other."""
    if kernel_name() == TORCH:
        pytest.skip("only the native kernels give a row the same bits whatever its company")
    flags = ["--quant", request.param, "--dtype", "bfloat16", "--threads", "1"]
    with local_swarm(("0:7", "7:19", "19:30"), server_flags=flags, logs=tmp_path_factory.mktemp("logs")) as swarm:
        yield AutoModelForCausalLM.from_pretrained(initial_peers=[swarm.addr], reuse_prefixes=False)


async def test_sixteen_uneven_sessions_that_join_and_leave_at_random_have_the_texts_of_their_solo_runs(
    quantised: SwarmForCausalLM,
) -> None:
    dice = random.Random(8)
    prompts = [[dice.randrange(100, 49000) for _ in range(dice.randint(3, 150))] for _ in range(16)]
    lengths = [dice.randint(8, 40) for _ in prompts]

    async def text(index: int, *, wait: float = 0.0, stop_after: int | None = None) -> list[int]:
        await asyncio.sleep(wait)
        options = {"do_sample": index % 3 == 0, "seed": index, "temperature": 0.9}
        stream = quantised.stream(prompts[index], max_new_tokens=lengths[index], eos_token_id=NOTHING, **options)
        found: list[int] = []
        async for token in stream:
            found.append(token)
            if stop_after is not None and len(found) == stop_after:
                break
        await stream.aclose()
        return found

    alone = [await text(index) for index in range(16)]
    together = [text(index, wait=dice.random() * 0.8) for index in range(16)]
    leavers = [text(dice.randrange(16), wait=dice.random(), stop_after=dice.randint(1, 6)) for _ in range(8)]
    found = await asyncio.gather(*together, *leavers)
    assert found[:16] == alone
    assert [len(tokens) for tokens in alone] == lengths


@pytest.fixture(scope="module")
def narrow_swarm(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSwarm]:
    """Two servers with the fewest pages that a server has: 64, or 1,024 tokens."""
    flags = [*FP32, "--memory", "1MB", "--force"]
    logs = tmp_path_factory.mktemp("narrow")
    with local_swarm(("0:4", "4:6"), model=str(tiny_folder), server_flags=flags, logs=logs) as swarm:
        yield swarm


async def test_more_sessions_than_fit_take_turns_and_all_texts_are_whole(
    narrow_swarm: LocalSwarm, tiny: SwarmForCausalLM, tiny_folder: Path
) -> None:
    narrow = AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[narrow_swarm.addr])

    async def text(model: SwarmForCausalLM, index: int) -> list[int]:
        prompt = [(index * 7 + offset) % 120 + 4 for offset in range(40)]
        return [token async for token in model.stream(prompt, max_new_tokens=160, eos_token_id=[])]

    expected = [await text(tiny, index) for index in range(7)]
    found = await asyncio.wait_for(asyncio.gather(*(text(narrow, index) for index in range(7))), 120)
    assert found == expected  # 7 x 200 tokens, where 1,024 fit
    async with Inspector(narrow_swarm) as inspector:
        await inspector.wait_empty(5)
        first, *_ = await inspector.stats()
        assert first.pages == 64 and first.num_busy > 0  # else nothing was shown
