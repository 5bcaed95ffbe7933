"""Sessions over real servers: kept between calls, rolled back, closed with their cache, independent of each other."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from swarm.client import SwarmForCausalLM
from swarm.client.bridge import bridge
from swarm.demo.processes import LocalSwarm
from swarm.errors import PromptTooLong, UsageError
from tests.builders import some_ids
from tests.swarm.asking import free_pages
from tests.swarm.prompts import PROMPTS
from tests.swarm.reference import Reference
from tests.zygote import ForkedPopen

pytestmark = pytest.mark.slow

GREEDY: dict[str, Any] = {"do_sample": False, "eos_token_id": []}


def wait_for_pages(model: SwarmForCausalLM, expected: dict[str, int], timeout: float = 10.0) -> None:
    """Wait until all servers have so many free pages again: closing is told, not awaited."""
    deadline = time.monotonic() + timeout
    while (now := free_pages(model)) != expected:
        assert time.monotonic() < deadline, f"free pages {now}, not {expected}"
        time.sleep(0.1)


@pytest.fixture
def all_free(tiny: SwarmForCausalLM) -> dict[str, int]:
    """Free pages of the tiny model's servers while no session is open."""
    gc.collect()
    time.sleep(0.2)  # closing is told, not awaited: what the last session held is on its way back
    pages = free_pages(tiny)
    time.sleep(0.2)
    while (later := free_pages(tiny)) != pages:
        pages = later
        time.sleep(0.2)
    return pages


def test_a_second_turn_computes_only_what_is_new(model: SwarmForCausalLM, reference: Reference) -> None:
    first = reference.ids("My name is Ada and I live in London. Where do I live?")
    with model.inference_session(max_length=256) as session:
        answer = model.generate(first, max_new_tokens=12, do_sample=False)
        second = torch.cat([answer, reference.ids(" And what is my name?")], 1)
        assert session.cache.session is not None
        session.cache.session.timings.clear()
        ours = model.generate(second, max_new_tokens=12, do_sample=False)
        sent = [timing.tokens for timing in session.cache.session.timings]
    # The last token of the answer was chosen, but never sent; then one token a step.
    num_new = second.shape[1] - answer.shape[1]
    assert sent == [num_new + 1] + [1] * (ours.shape[1] - second.shape[1] - 1)
    assert reference.same(ours, reference.model.generate(second, max_new_tokens=12, do_sample=False)) == 0
    assert reference.same(ours, model.generate(second, max_new_tokens=12, do_sample=False)) == 0


def test_an_edited_conversation_rolls_back_to_what_is_shared(tiny: SwarmForCausalLM) -> None:
    first, other = some_ids(40, seed=1)[None], some_ids(40, seed=1)[None].clone()
    other[0, 25] = (other[0, 25] + 1) % 128
    with tiny.inference_session() as session:
        tiny.generate(first, max_new_tokens=8, **GREEDY)
        assert session.position == 47 and session.cache.session is not None
        session.cache.session.timings.clear()
        ours = tiny.generate(other, max_new_tokens=8, **GREEDY)
        assert session.cache.session.timings[0].tokens == 40 - 25
        shorter = tiny.generate(first[:, :10], max_new_tokens=8, **GREEDY)
    assert torch.equal(ours, tiny.generate(other, max_new_tokens=8, **GREEDY))
    assert torch.equal(shorter, tiny.generate(first[:, :10], max_new_tokens=8, **GREEDY))


def test_a_session_keeps_a_padded_batch(tiny: SwarmForCausalLM) -> None:
    ids = some_ids(20, seed=2).view(2, 10)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with tiny.inference_session():
        answer = tiny.generate(ids, attention_mask=mask, max_new_tokens=6, **GREEDY)
        longer = torch.cat([answer, some_ids(6, seed=3).view(2, 3)], 1)
        wider = torch.cat([mask, torch.ones(2, 9, dtype=torch.long)], 1)
        ours = tiny.generate(longer, attention_mask=wider, max_new_tokens=6, **GREEDY)
    assert torch.equal(ours, tiny.generate(longer, attention_mask=wider, max_new_tokens=6, **GREEDY))


def test_a_session_has_a_length(tiny: SwarmForCausalLM) -> None:
    with tiny.inference_session(max_length=16), pytest.raises(PromptTooLong, match="16"):
        tiny.generate(some_ids(12)[None], max_new_tokens=8, **GREEDY)
    with pytest.raises(PromptTooLong, match="256"):
        tiny.inference_session(max_length=257)


def test_a_session_goes_on_from_ids_only(tiny: SwarmForCausalLM) -> None:
    embeds = tiny.get_input_embeddings()(some_ids(4)[None])
    with tiny.inference_session(), pytest.raises(UsageError, match="token ids"):
        tiny.generate(inputs_embeds=embeds, max_new_tokens=2)


def test_pages_come_back_when_the_cache_is_gone(tiny: SwarmForCausalLM, all_free: dict[str, int]) -> None:
    cache = tiny.new_cache()
    tiny(some_ids(100)[None], past_key_values=cache)
    held = free_pages(tiny)
    assert all(all_free[peer] - held[peer] == 7 for peer in all_free), (all_free, held)  # 100 tokens, 16 a page
    del cache
    gc.collect()
    wait_for_pages(tiny, all_free)


def test_pages_come_back_after_generate_and_after_a_session(tiny: SwarmForCausalLM, all_free: dict[str, int]) -> None:
    tiny.generate(some_ids(50)[None], max_new_tokens=10, num_beams=3, do_sample=False)
    with tiny.inference_session():
        tiny.generate(some_ids(50)[None], max_new_tokens=10, **GREEDY)
        assert free_pages(tiny) != all_free
    gc.collect()
    wait_for_pages(tiny, all_free)


def test_a_refused_call_leaves_the_session_usable(tiny: SwarmForCausalLM) -> None:
    with tiny.inference_session():
        first = tiny.generate(some_ids(20)[None], max_new_tokens=4, **GREEDY)
        with pytest.raises(PromptTooLong):
            tiny.generate(some_ids(20)[None], max_new_tokens=400, **GREEDY)
        assert torch.equal(tiny.generate(some_ids(20)[None], max_new_tokens=4, **GREEDY), first)


def test_two_sessions_at_once_are_independent(tiny: SwarmForCausalLM) -> None:
    left, right = tiny.inference_session(), tiny.inference_session()
    one, two = some_ids(30, seed=4)[None], some_ids(30, seed=5)[None]
    expected = [tiny.generate(ids, max_new_tokens=12, **GREEDY) for ids in (one, two)]
    for length in (3, 6, 12):
        first = tiny.generate(one, session=left, max_new_tokens=length, **GREEDY)
        second = tiny.generate(two, session=right, max_new_tokens=length, **GREEDY)
        assert torch.equal(first, expected[0][:, : 30 + length]) and torch.equal(second, expected[1][:, : 30 + length])
    left.cache.reset()
    again = tiny.generate(two, session=right, max_new_tokens=12, **GREEDY)
    assert torch.equal(again, expected[1])
    right.cache.reset()


def test_eight_threads_generate_as_if_each_were_alone(tiny: SwarmForCausalLM) -> None:
    prompts = [some_ids(5 + 17 * index, seed=index)[None] for index in range(8)]

    def generate(ids: Tensor) -> Tensor:
        return tiny.generate(ids, max_new_tokens=24, **GREEDY)

    alone = [generate(ids) for ids in prompts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(generate, prompts))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(together, alone, strict=True))


@pytest.mark.long
def test_threads_over_the_real_model_generate_as_if_alone(model: SwarmForCausalLM, reference: Reference) -> None:
    prompts = [reference.ids(PROMPTS[index]) for index in (0, 2, 6, 11)]
    alone = [model.generate(ids, max_new_tokens=16, do_sample=False) for ids in prompts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda ids: model.generate(ids, max_new_tokens=16, do_sample=False), prompts))
    assert sum(reference.same(ours, theirs) for ours, theirs in zip(together, alone, strict=True)) == 0


async def test_a_notebook_cell_inside_a_running_loop_calls_generate_as_anybody(tiny: SwarmForCausalLM) -> None:
    ids = some_ids(9)[None]
    assert tiny.generate(ids, max_new_tokens=5, **GREEDY).shape == (1, 14)


def test_waiting_inside_the_swarms_own_loop_is_refused_not_a_deadlock(tiny: SwarmForCausalLM) -> None:
    async def inside() -> Any:
        return tiny.generate(some_ids(4)[None], max_new_tokens=2, **GREEDY)

    with pytest.raises(RuntimeError, match="would wait for itself"):
        bridge().run(inside())


CLIENT = """
import sys, torch
from swarm import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], initial_peers=[sys.argv[2]])
cache = model.new_cache()
model(torch.arange(1, 81)[None], past_key_values=cache)
print("holding", flush=True)
sys.stdin.read()
"""


def test_a_killed_client_frees_its_pages_on_all_servers(
    tiny: SwarmForCausalLM, tiny_swarm: LocalSwarm, tiny_folder: Any, all_free: dict[str, int]
) -> None:
    command = [sys.executable, "-c", CLIENT, str(tiny_folder), tiny_swarm.addr]
    with ForkedPopen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "holding\n"
        held = free_pages(tiny)
        assert all(all_free[peer] - held[peer] == 5 for peer in all_free)
        os.kill(client.pid, signal.SIGKILL)
        wait_for_pages(tiny, all_free)
