"""Clients that go away: their pages are free on all hops at once, and nothing of them stays."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from swarm.client import SwarmForCausalLM
from swarm.demo.processes import LocalSwarm
from tests.swarm.asking import Inspector
from tests.swarm.conftest import Swarms
from tests.zygote import ForkedPopen

pytestmark = pytest.mark.slow

PROMPT = list(range(5, 45))

CLIENT = """
import asyncio, sys
from swarm import AutoModelForCausalLM

async def main():
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], initial_peers=[sys.argv[2]])
    async for _ in model.stream(list(range(5, 45)), max_new_tokens=200, eos_token_id=[]):
        print("token", flush=True)
        await asyncio.sleep(0.02)

asyncio.run(main())
"""


async def test_a_stream_that_is_left_frees_its_pages_on_all_hops_within_a_second(
    tiny: SwarmForCausalLM, tiny_swarm: LocalSwarm
) -> None:
    async with Inspector(tiny_swarm) as inspector:
        await inspector.wait_empty(5)
        streams = [tiny.stream([index, *PROMPT], max_new_tokens=200, eos_token_id=[]) for index in range(8)]
        for stream in streams:
            async for _ in stream:
                break
        assert all(stats.sequences == 8 and stats.pages_used >= 8 for stats in await inspector.stats())
        await asyncio.gather(*(stream.aclose() for stream in streams))
        assert await inspector.wait_empty(5) < 1.0
        assert all(stats.pages_used == 0 for stats in await inspector.stats())


async def test_a_task_that_is_cancelled_in_the_middle_of_a_prompt_frees_its_pages(
    tiny: SwarmForCausalLM, tiny_swarm: LocalSwarm
) -> None:
    async def read() -> None:
        async for _ in tiny.stream([index % 120 for index in range(200)], max_new_tokens=50, eos_token_id=[]):
            pass

    async with Inspector(tiny_swarm) as inspector:
        tasks = [asyncio.create_task(read()) for _ in range(6)]
        while not any(stats.sequences for stats in await inspector.stats()):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)
        assert await inspector.wait_empty(5) < 1.0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_client_that_dies_frees_its_pages_on_all_hops_within_a_second(
    tiny_folder: object, tiny_swarm: LocalSwarm, number: signal.Signals
) -> None:
    async with Inspector(tiny_swarm) as inspector:
        await inspector.wait_empty(5)
        command = [sys.executable, "-c", CLIENT, str(tiny_folder), tiny_swarm.addr]
        client = await asyncio.to_thread(ForkedPopen, command, stdout=subprocess.PIPE)
        try:
            assert client.stdout is not None
            for _ in range(3):
                assert await asyncio.to_thread(client.stdout.readline)
            assert all(stats.sequences == 1 for stats in await inspector.stats())
            client.send_signal(number)
            assert await inspector.wait_empty(10) < 1.0
        finally:
            client.kill()
            client.wait()


async def test_a_thousand_streams_given_up_leave_nothing_behind(tiny: SwarmForCausalLM, tiny_swarm: LocalSwarm) -> None:
    async def give_up(index: int) -> None:
        stream = tiny.stream([index % 120, *PROMPT], max_new_tokens=150, eos_token_id=[])
        left = index % 4
        async for _ in stream:
            left -= 1
            if left < 0:
                break
        await stream.aclose()

    async with Inspector(tiny_swarm) as inspector:
        sizes: list[list[int]] = []
        for begin in range(0, 1000, 10):
            await asyncio.gather(*(give_up(begin + index) for index in range(10)))
            if begin in (490, 990):
                sizes.append(inspector.resident())
        assert await inspector.wait_empty(5) < 1.0
        assert all(stats.pages_used == 0 and stats.waiting == 0 for stats in await inspector.stats())
    for before, after in zip(*sizes, strict=True):
        assert after - before < 0.02 * before


UNFINISHED = """
import asyncio, sys
from swarm import AutoModelForCausalLM

async def main():
    model = AutoModelForCausalLM.from_pretrained(initial_peers=[sys.argv[1]])
    streams = [model.stream(list(range(5, 45 + n)), max_new_tokens=400, eos_token_id=[]) for n in range(12)]
    for stream in streams:
        async for _ in stream:
            break
    kept.extend(streams)

kept = []
asyncio.run(main())
"""


def test_a_program_that_ends_with_streams_under_way_ends_in_order(swarms: Swarms) -> None:
    swarm, _ = swarms(1)
    command = [sys.executable, "-c", UNFINISHED, swarm.addr]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
