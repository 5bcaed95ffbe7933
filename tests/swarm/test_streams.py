"""Streams over real servers: the tokens of `generate`, for many at once; left half way, begun where others ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from swarm.client import SwarmForCausalLM, TokenStream
from swarm.errors import PromptTooLong, TokenOutOfRange, UsageError
from tests.builders import some_ids
from tests.swarm.asking import free_pages
from tests.swarm.prompts import PROMPTS
from tests.swarm.reference import Reference

pytestmark = pytest.mark.slow

GREEDY: dict[str, Any] = {"do_sample": False, "eos_token_id": []}


async def read(stream: TokenStream) -> list[int]:
    return [token async for token in stream]


def new_tokens(ids: Tensor, text: Tensor) -> list[int]:
    return text[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("prompt", [0, *(pytest.param(prompt, marks=pytest.mark.long) for prompt in (3, 12))])
async def test_a_stream_gives_the_tokens_of_generate_and_of_transformers(
    model: SwarmForCausalLM, reference: Reference, prompt: int
) -> None:
    ids = reference.ids(PROMPTS[prompt])
    streamed = await read(model.stream(ids, max_new_tokens=64, do_sample=False))
    expected = await asyncio.to_thread(model.generate, ids, max_new_tokens=64, do_sample=False)
    assert streamed == new_tokens(ids, expected)
    assert reference.same(torch.cat([ids, torch.tensor([streamed])], 1), reference.greedy(prompt)) == 0


OPTIONS: dict[str, dict[str, Any]] = {
    "sampling": {"do_sample": True},
    "temperature and top-p": {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 0},
    "min-p": {"do_sample": True, "min_p": 0.02},
    "repetition penalty": {"do_sample": False, "repetition_penalty": 1.3},
    "no repeated ngram": {"do_sample": False, "no_repeat_ngram_size": 3},
    "bad words": {"do_sample": False, "bad_words_ids": [[28], [30]], "min_new_tokens": 12},
    "suppressed tokens": {"do_sample": False, "suppress_tokens": [28, 30, 198]},
    "typical": {"do_sample": True, "typical_p": 0.6},
}


MORE = ("temperature and top-p", "repetition penalty", "suppressed tokens", "typical")
"""Are left to the long tests."""


@pytest.mark.parametrize(
    "options",
    [pytest.param(OPTIONS[name], id=name, marks=pytest.mark.long if name in MORE else ()) for name in OPTIONS],
)
async def test_options_and_seeds_give_what_generate_gives(
    model: SwarmForCausalLM, reference: Reference, options: dict[str, Any]
) -> None:
    ids = reference.ids(PROMPTS[12])
    streamed = await read(model.stream(ids, max_new_tokens=12, seed=11, **options))
    torch.manual_seed(11)
    expected = await asyncio.to_thread(model.generate, ids, max_new_tokens=12, **options)
    assert streamed == new_tokens(ids, expected)


async def test_stop_strings_end_a_stream(model: SwarmForCausalLM, reference: Reference) -> None:
    ids = reference.ids(PROMPTS[3])
    options: dict[str, Any] = {
        "max_new_tokens": 24,
        "do_sample": False,
        "stop_strings": [" 89"],
        "tokenizer": reference.tokenizer,
    }
    expected = await asyncio.to_thread(model.generate, ids, **options)
    assert await read(model.stream(ids, **options)) == new_tokens(ids, expected)
    assert expected.shape[1] < ids.shape[1] + 24


async def test_eight_uneven_streams_at_once_equal_generate_one_by_one(tiny: SwarmForCausalLM) -> None:
    prompts = [some_ids(5 + 17 * index, seed=index)[None] for index in range(8)]
    options = [{"do_sample": False} if index % 2 else {"do_sample": True, "seed": index} for index in range(8)]
    expected = []
    for index, (ids, own) in enumerate(zip(prompts, options, strict=True)):
        torch.manual_seed(index)
        plain = {"do_sample": own["do_sample"], "max_new_tokens": 20 + 5 * index, "eos_token_id": []}
        expected.append(new_tokens(ids, await asyncio.to_thread(tiny.generate, ids, **plain)))
    together = await asyncio.gather(
        *(
            read(tiny.stream(ids, max_new_tokens=20 + 5 * index, eos_token_id=[], **own))
            for index, (ids, own) in enumerate(zip(prompts, options, strict=True))
        )
    )
    assert together == expected


@pytest.mark.long
async def test_streams_over_the_real_model_equal_generate_one_by_one(
    model: SwarmForCausalLM, reference: Reference
) -> None:
    prompts = [reference.ids(PROMPTS[index]) for index in (0, 3, 12, 1, 4)]
    expected = [
        new_tokens(ids, await asyncio.to_thread(model.generate, ids, max_new_tokens=5 + 2 * index, do_sample=False))
        for index, ids in enumerate(prompts)
    ]
    before = model._decoder.num_batches, model._decoder.num_tokens
    together = await asyncio.gather(
        *(read(model.stream(ids, max_new_tokens=5 + 2 * index, do_sample=False)) for index, ids in enumerate(prompts))
    )
    assert together == expected
    num_batches, num_tokens = model._decoder.num_batches - before[0], model._decoder.num_tokens - before[1]
    print(f"{num_tokens} tokens in {num_batches} batches")
    assert num_batches <= num_tokens == sum(len(text) for text in expected)


async def test_streams_and_threads_side_by_side(tiny: SwarmForCausalLM) -> None:
    ids = some_ids(30, seed=3)[None]
    expected = new_tokens(ids, await asyncio.to_thread(tiny.generate, ids, max_new_tokens=30, **GREEDY))
    threads = [asyncio.to_thread(tiny.generate, ids, max_new_tokens=30, **GREEDY) for _ in range(3)]
    streams = [read(tiny.stream(ids, max_new_tokens=30, **GREEDY)) for _ in range(3)]
    texts = await asyncio.gather(*threads, *streams)
    assert [new_tokens(ids, text) if isinstance(text, Tensor) else text for text in texts] == [expected] * 6


async def test_a_hundred_streams_cancelled_at_any_moment_leave_nothing(tiny: SwarmForCausalLM) -> None:
    before = await asyncio.to_thread(free_pages, tiny)

    async def leave(index: int) -> None:
        reader = asyncio.create_task(read(tiny.stream(some_ids(40, seed=index), max_new_tokens=100, **GREEDY)))
        await asyncio.sleep(0.002 * (index % 25))
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)

    for start in range(0, 100, 20):
        await asyncio.gather(*(leave(index) for index in range(start, start + 20)))
    await wait_until(lambda: free_pages(tiny) == before, timeout=5.0)
    ids = some_ids(9)[None]
    expected = await asyncio.to_thread(tiny.generate, ids, max_new_tokens=5, **GREEDY)
    assert await read(tiny.stream(ids, max_new_tokens=5, **GREEDY)) == new_tokens(ids, expected)


async def test_a_second_turn_computes_only_its_new_tokens(model: SwarmForCausalLM, reference: Reference) -> None:
    first = reference.ids("You are a helpful assistant. " * 6 + "My name is Ada and I live in London. Who am I?")
    answer = await read(model.stream(first, max_new_tokens=20, do_sample=False, eos_token_id=[]))
    turn = torch.cat([first, torch.tensor([answer]), reference.ids(" And where do I live?")], 1)
    ours = await read(model.stream(turn, max_new_tokens=12, do_sample=False))
    session = model._latest
    assert session is not None
    # The last token of the answer was chosen, but never sent; whole pages of 16 are found again.
    num_held = (first.shape[1] + len(answer) - 1) // 16 * 16
    assert session.num_prefix_tokens == num_held
    assert session.timings[0].tokens == turn.shape[1] - num_held
    expected = reference.model.generate(turn, max_new_tokens=12, do_sample=False)
    assert reference.same(torch.cat([turn, torch.tensor([ours])], 1), expected) == 0


async def test_generate_begins_where_a_stream_left_off(tiny: SwarmForCausalLM) -> None:
    ids = some_ids(70, seed=21)[None]
    expected = await read(tiny.stream(ids, max_new_tokens=9, **GREEDY))
    cache = tiny.new_cache()
    text = await asyncio.to_thread(tiny.generate, ids, max_new_tokens=9, past_key_values=cache, **GREEDY)
    assert cache.session is not None and cache.session.num_prefix_tokens == 64
    assert new_tokens(ids, text) == expected


def test_bad_calls_are_refused_before_a_server_is_asked(tiny: SwarmForCausalLM) -> None:
    for error, ids, options in (
        (UsageError, [1, 2], {"num_beams": 3}),
        (UsageError, [1, 2], {"max_newtokens": 3}),
        (UsageError, [[1], [2]], {}),
        (TokenOutOfRange, [1, 128], {}),
        (PromptTooLong, [1] * 250, {"max_new_tokens": 8}),
    ):
        with pytest.raises(error):
            tiny.stream(ids, **options)


async def wait_until(is_so: Callable[[], bool], *, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not await asyncio.to_thread(is_so):
        assert time.monotonic() < deadline, f"not within {timeout} s"
        await asyncio.sleep(0.02)
