"""Streams over hops in memory: each text follows from all its tokens, whatever happens on the way."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation import MaxLengthCriteria

from swarm.client import Timeouts, TokenStream
from swarm.client.bridge import bridge
from swarm.client.prefixes import extend_hashes
from swarm.client.steps import MAX_AHEAD
from swarm.errors import Busy, HopFailed, HopTimeout, PromptTooLong, TokenOutOfRange, UsageError
from swarm.wire import Step
from swarm.wire.rows import TRY_BITS
from tests.builders import some_ids
from tests.client.digest_swarm import CONTEXT, END, DigestSwarm, on_bridge, text_after

PROMPT = some_ids(21, seed=7, vocab_size=90).tolist()


@pytest.fixture
def swarm() -> Iterator[DigestSwarm]:
    with on_bridge(DigestSwarm()) as swarm:
        yield swarm


async def read(stream: TokenStream) -> list[int]:
    return [token async for token in stream]


async def test_a_stream_gives_the_text(swarm: DigestSwarm) -> None:
    assert await read(swarm.model().stream(PROMPT, max_new_tokens=20)) == text_after(PROMPT, 20)
    assert swarm.num_tokens == 21 + 19


async def test_prompts_are_tensors_or_lists_of_any_length(swarm: DigestSwarm) -> None:
    model = swarm.model()
    for prompt in (PROMPT[:1], PROMPT[:8], PROMPT):
        for given in (prompt, torch.tensor(prompt), torch.tensor([prompt])):
            assert await read(model.stream(given, max_new_tokens=3)) == text_after(prompt, 3)


async def test_many_streams_at_once_each_give_their_own_text(swarm: DigestSwarm) -> None:
    model = swarm.model()
    prompts = [some_ids(1 + 5 * index, seed=index, vocab_size=90).tolist() for index in range(24)]
    texts = await asyncio.gather(
        *(read(model.stream(prompt, max_new_tokens=5 + index)) for index, prompt in enumerate(prompts))
    )
    assert texts == [text_after(prompt, 5 + index) for index, prompt in enumerate(prompts)]
    assert model._decoder.num_tokens == sum(5 + index for index in range(24))
    assert model._decoder.num_batches < model._decoder.num_tokens / 2, "results that arrive together run together"


def test_streams_may_be_read_on_several_loops_at_once(swarm: DigestSwarm) -> None:
    model, texts = swarm.model(), dict[int, list[int]]()

    def read_one(index: int) -> None:
        texts[index] = asyncio.run(read(model.stream(PROMPT[index:], max_new_tokens=30)))

    threads = [threading.Thread(target=read_one, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert texts == {index: text_after(PROMPT[index:], 30) for index in range(4)}


async def test_each_stream_explains_its_own_session_while_it_runs_and_afterwards(swarm: DigestSwarm) -> None:
    model = swarm.model()
    short, long = model.stream(PROMPT, max_new_tokens=4), model.stream(PROMPT, max_new_tokens=40)
    assert short.explain().hops == () and short.explain().num_steps == 0, "no session is open yet"
    async for _ in long:
        break
    running = long.explain()
    assert [times.hop.peer for times in running.hops] == ["hop0", "hop1"]
    await read(short)
    assert short.explain().num_steps == 4 - 1, "the prompt's step is no decode step"
    assert len(await read(long)) == 39
    swarm.is_alone = True
    after = long.explain()
    assert after.num_steps == 40 - 1 and after.num_failovers == 0
    assert [times.hop for times in after.hops] == [times.hop for times in running.hops]
    assert [times.compute for times in after.hops] == pytest.approx([20e-6] * 2) and after.step > 40e-6


async def test_what_a_stream_explains_outlives_the_sessions_that_busy_hops_ended(swarm: DigestSwarm) -> None:
    swarm.fails = lambda step: Busy("no pages", retry_after=0.01) if step.step >> TRY_BITS == 9 else None
    stream = swarm.model().stream(PROMPT, max_new_tokens=12)
    await read(stream)
    assert len(swarm.sessions) > 1
    last = len(swarm.sessions[-1].steps)
    assert 0 < stream.explain().num_steps <= last


async def test_likelihoods_are_of_the_models_own_probabilities_and_only_for_who_asks(swarm: DigestSwarm) -> None:
    model = swarm.model()
    ids = torch.tensor([[*PROMPT, *text_after(PROMPT, 6)]])
    expected = model(ids).logits[0, len(PROMPT) - 1 : -1].float().log_softmax(-1)

    async def likely(**options: Any) -> list[Any]:
        stream = model.stream(PROMPT, max_new_tokens=6, **options)
        return [(token, stream.likelihood) async for token in stream]

    plain, own, banned = await asyncio.gather(
        likely(), likely(num_logprobs=3), likely(num_logprobs=0, suppress_tokens=text_after(PROMPT, 1))
    )
    assert plain == [(token, None) for token in text_after(PROMPT, 6)]
    for row, (token, likelihood) in zip(expected, own, strict=True):
        assert likelihood.logprob == pytest.approx(float(row[token])) == pytest.approx(float(row.max()))
        assert [each for each, _ in likelihood.top] == row.topk(3).indices.tolist()
        assert [each for _, each in likelihood.top] == pytest.approx(row.topk(3).values.tolist())
    token, likelihood = banned[0]
    assert token != text_after(PROMPT, 1)[0] and likelihood.top == ()
    assert likelihood.logprob == pytest.approx(float(expected[0][token])), "before processors change anything"


async def test_an_ended_stream_keeps_no_session(swarm: DigestSwarm) -> None:
    model = swarm.model()
    stream = model.stream(PROMPT, max_new_tokens=3)
    await read(stream)
    session = weakref.ref(model._latest)
    model._latest = None

    def is_gone() -> bool:
        gc.collect()
        return session() is None

    await wait_until(is_gone)
    assert stream.explain().num_steps == 2


async def test_a_text_ends_with_its_end_token(swarm: DigestSwarm) -> None:
    text = text_after(PROMPT, 20)
    streamed = await read(swarm.model().stream(PROMPT, max_new_tokens=20, eos_token_id=[END, text[6]]))
    assert streamed == text[: text.index(text[6]) + 1]


async def test_leaving_the_loop_closes_the_session_on_all_hops(swarm: DigestSwarm) -> None:
    async for _ in swarm.model().stream(PROMPT, max_new_tokens=200):
        break
    gc.collect()
    await wait_until(lambda: not swarm.num_open)
    assert len(swarm.sessions[0].steps) < 100


async def test_aclose_ends_a_stream_and_whoever_awaits_it(swarm: DigestSwarm) -> None:
    swarm.is_silent = True
    stream = swarm.model().stream(PROMPT, max_new_tokens=200)
    reader = asyncio.create_task(read(stream))
    await wait_until(lambda: bool(swarm.sessions) and bool(swarm.sessions[0].steps))
    await stream.aclose()
    assert await asyncio.wait_for(reader, 5) == []
    await wait_until(lambda: not swarm.num_open)
    assert await read(stream) == []


async def test_a_cancelled_reader_closes_the_session(swarm: DigestSwarm) -> None:
    swarm.is_silent = True
    reader = asyncio.create_task(read(swarm.model().stream(PROMPT, max_new_tokens=200)))
    await wait_until(lambda: bool(swarm.sessions) and bool(swarm.sessions[0].steps))
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await wait_until(lambda: not swarm.num_open)


async def test_a_stream_that_is_never_read_opens_nothing(swarm: DigestSwarm) -> None:
    del_me = swarm.model().stream(PROMPT, max_new_tokens=5)
    await asyncio.sleep(0.02)
    assert not swarm.sessions
    await del_me.aclose()


async def test_a_step_that_fails_ends_its_own_stream_only(swarm: DigestSwarm) -> None:
    model, told = swarm.model(), list[bytes]()

    def fail_first(step: Step) -> Any:
        told.append(step.session)
        return HopFailed("out of paper") if step.step >> TRY_BITS == 9 and step.session == told[0] else None

    swarm.fails = fail_first
    results = await asyncio.gather(
        *(read(model.stream(PROMPT[index:], max_new_tokens=30)) for index in range(5)), return_exceptions=True
    )
    failed = [index for index, result in enumerate(results) if isinstance(result, HopFailed)]
    assert len(failed) == 1 and "out of paper" in str(results[failed[0]])
    for index, result in enumerate(results):
        assert index in failed or result == text_after(PROMPT[index:], 30)


async def test_tokens_before_a_fault_are_given(swarm: DigestSwarm) -> None:
    swarm.fails = lambda step: HopFailed("out of paper") if step.step >> TRY_BITS == 9 else None
    seen = []
    with pytest.raises(HopFailed):  # noqa: PT012 - what came before the fault is the point
        async for token in swarm.model().stream(PROMPT, max_new_tokens=30):
            seen.append(token)
    assert seen == text_after(PROMPT, 6)  # three chunks, then a step a token; the ninth fails


class _Breaks(LogitsProcessor):
    def __call__(self, input_ids: Any, scores: Any) -> Any:
        raise KeyError("mine")


class _Stops(StoppingCriteria):
    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        if input_ids.shape[1] > 24:
            raise KeyError("mine")
        return torch.zeros(1, dtype=torch.bool)


@pytest.mark.parametrize(
    "options",
    [
        {"logits_processor": LogitsProcessorList([_Breaks()])},
        {"stopping_criteria": StoppingCriteriaList([_Stops()])},
    ],
    ids=["processor", "criteria"],
)
async def test_what_a_users_own_code_raises_is_raised_to_him_alone(swarm: DigestSwarm, options: Any) -> None:
    model = swarm.model()
    bad, good = await asyncio.gather(
        read(model.stream(PROMPT, max_new_tokens=30, **options)),
        read(model.stream(PROMPT, max_new_tokens=30)),
        return_exceptions=True,
    )
    assert isinstance(bad, KeyError) and good == text_after(PROMPT, 30)


async def test_a_busy_hop_is_waited_for_and_nobody_notices(swarm: DigestSwarm) -> None:
    busy_at = {2: 0, 7: 1, 15: 2}

    def sometimes(step: Step) -> Any:
        if busy_at.pop(sum(len(held.steps) for held in swarm.sessions), None) is None:
            return None
        return Busy("no pages", retry_after=0.01)

    swarm.fails = sometimes
    assert await read(swarm.model().stream(PROMPT, max_new_tokens=30)) == text_after(PROMPT, 30)
    assert not busy_at and len(swarm.sessions) == 4
    assert all(held.is_closed for held in swarm.sessions[:3]), "whoever waits must hold no pages"


async def test_a_hop_that_stays_busy_is_told_in_the_end() -> None:
    with on_bridge(DigestSwarm(timeouts=Timeouts(busy=0.2))) as swarm:
        swarm.fails = lambda step: Busy("no pages", retry_after=0.05)
        with pytest.raises(Busy, match="no pages"):
            await read(swarm.model().stream(PROMPT, max_new_tokens=30))
        assert 2 <= len(swarm.sessions) <= 5


async def test_hops_that_do_not_answer_are_told_after_the_steps_timeout() -> None:
    with on_bridge(DigestSwarm(timeouts=Timeouts(step=0.1))) as swarm:
        swarm.is_silent = True
        with pytest.raises(HopTimeout, match=r"hop0.*hop1"):
            await read(swarm.model().stream(PROMPT, max_new_tokens=30))


async def test_a_prompt_of_before_is_found_again_at_all_hops(swarm: DigestSwarm) -> None:
    model, long = swarm.model(), some_ids(50, seed=1, vocab_size=90).tolist()
    answer = await read(model.stream(long, max_new_tokens=10))
    assert not swarm.asked and swarm.num_tokens == 59, "a fresh prompt costs no question"
    second = [*long, *answer, 5, 6, 7]
    assert await read(model.stream(second, max_new_tokens=10)) == text_after(second, 10)
    assert len(swarm.asked) == 2
    assert swarm.num_tokens == 59 + 63 - 48 + 9  # three pages of 16 were there: 59 tokens had been computed
    assert model._latest is not None and model._latest.num_prefix_tokens == 48


async def test_what_one_hop_has_given_up_is_computed_anew(swarm: DigestSwarm) -> None:
    model, long = swarm.model(), some_ids(50, seed=2, vocab_size=90).tolist()
    await read(model.stream(long, max_new_tokens=2))
    first_page = extend_hashes((), long)[0]
    swarm.found[1] = {entry for entry in swarm.found[1] if entry[1] == first_page}
    assert await read(model.stream(long, max_new_tokens=5)) == text_after(long, 5)
    assert model._latest is not None and model._latest.num_prefix_tokens == 16


async def test_at_least_one_token_is_computed(swarm: DigestSwarm) -> None:
    model, pages = swarm.model(), some_ids(48, seed=3, vocab_size=90).tolist()
    for _ in range(2):
        assert await read(model.stream(pages, max_new_tokens=5)) == text_after(pages, 5)
    assert model._latest is not None and model._latest.num_prefix_tokens == 32


async def test_a_session_that_begins_again_finds_its_own_pages(swarm: DigestSwarm) -> None:
    swarm.fails = lambda step: Busy("no pages", retry_after=0.01) if step.step >> TRY_BITS == 30 else None
    assert await read(swarm.model().stream(PROMPT, max_new_tokens=60)) == text_after(PROMPT, 60)
    assert len(swarm.sessions) == 3 and swarm.num_tokens < 80 + 2 * 17


async def test_nothing_is_marked_or_asked_if_nothing_is_to_be_kept(swarm: DigestSwarm) -> None:
    swarm.prefixes = None
    model, long = swarm.model(), some_ids(50, seed=1, vocab_size=90).tolist()
    for _ in range(2):
        assert await read(model.stream(long, max_new_tokens=3)) == text_after(long, 3)
    assert not swarm.asked and not any(step.marks for held in swarm.sessions for step in held.steps)


REFUSED: dict[str, dict[str, Any]] = {
    "num_beams": {"num_beams": 2},
    "num_return_sequences": {"num_return_sequences": 2, "do_sample": True},
    "assistant_model": {"assistant_model": object()},
    "prompt_lookup": {"prompt_lookup_num_tokens": 3},
    "streamer": {"streamer": object()},
    "guidance": {"guidance_scale": 1.5},
    "output_scores": {"output_scores": True, "return_dict_in_generate": True},
    "inputs_embeds": {"inputs_embeds": torch.zeros(1, 2, 2)},
    "no_such_option": {"no_such_option": 3},
    "temperature": {"do_sample": True, "temperature": -1.0},
    "max_new_tokens": {"max_new_tokens": 0},
    "attention_mask": {"attention_mask": torch.ones(1, 3)},
    "num_logprobs": {"num_logprobs": 21},
    "stop strings without a tokenizer": {"stop_strings": ["x"]},
}


@pytest.mark.parametrize("options", REFUSED.values(), ids=REFUSED.keys())
def test_what_one_text_at_a_time_cannot_do_is_refused_at_the_call(swarm: DigestSwarm, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        swarm.model().stream(PROMPT, **{"max_new_tokens": 5, **options})


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ([[1, 2], [3, 4]], UsageError),
        ([], UsageError),
        ([0.5], UsageError),
        ("words", UsageError),
        ([5, 97], TokenOutOfRange),
        ([5, -1], TokenOutOfRange),
        (PROMPT * 20, PromptTooLong),
    ],
)
def test_a_prompt_that_cannot_be_is_refused_at_the_call(swarm: DigestSwarm, ids: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        swarm.model().stream(ids, max_new_tokens=5)


async def test_a_stream_tells_which_tokens_end_it(swarm: DigestSwarm) -> None:
    assert swarm.model().stream(PROMPT, eos_token_id=[END, 5]).end_tokens == {END, 5}


async def test_the_context_may_be_filled_to_its_last_token(swarm: DigestSwarm) -> None:
    room = CONTEXT + 1 - len(PROMPT)  # the last token is chosen, but never sent
    assert await read(swarm.model().stream(PROMPT, max_new_tokens=room)) == text_after(PROMPT, room)
    with pytest.raises(PromptTooLong):
        swarm.model().stream(PROMPT, max_new_tokens=room + 1)


async def wait_until(is_so: Any) -> None:
    """Wait until something is so on the bridge's loop."""
    for _ in range(400):
        if is_so():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come")


def test_generate_waits_for_a_busy_hop_and_gives_its_pages_back_meanwhile(swarm: DigestSwarm) -> None:
    busy_at = {2, 9, 17}

    def sometimes(step: Step) -> Any:
        count = sum(len(held.steps) for held in swarm.sessions)
        return Busy("no pages", retry_after=0.01) if count in busy_at else None

    swarm.fails = sometimes
    text = swarm.model().generate(torch.tensor([PROMPT]), max_new_tokens=30, do_sample=False)
    assert text[0, len(PROMPT) :].tolist() == text_after(PROMPT, 30)
    assert len(swarm.sessions) == 4
    bridge().run(asyncio.sleep(0.01))
    assert all(held.is_closed for held in swarm.sessions[:3])


def test_beams_go_on_after_a_busy_hop(swarm: DigestSwarm) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "num_beams": 3, "do_sample": False}
    expected = swarm.model().generate(torch.tensor([PROMPT]), **options)
    before = len(swarm.sessions)
    swarm.fails = lambda step: Busy("no pages", retry_after=0.01) if step.step >> TRY_BITS == 8 else None
    assert torch.equal(swarm.model().generate(torch.tensor([PROMPT]), **options), expected)
    assert len(swarm.sessions) > before + 1


def test_embeddings_are_tried_again_in_place(swarm: DigestSwarm) -> None:
    model = swarm.model()
    swarm.fails = lambda step: Busy("no pages", retry_after=0.01) if step.step >> TRY_BITS == 4 else None
    embeds = model.get_input_embeddings()(torch.tensor([PROMPT]))
    text = model.generate(inputs_embeds=embeds, max_new_tokens=10, do_sample=False)
    assert text[0].tolist() == text_after(PROMPT, 10) and len(swarm.sessions) == 1


def test_generate_tells_a_hop_that_stays_busy() -> None:
    with on_bridge(DigestSwarm(timeouts=Timeouts(busy=0.1))) as swarm:
        swarm.fails = lambda step: Busy("no pages", retry_after=0.03)
        with pytest.raises(Busy):
            swarm.model().generate(torch.tensor([PROMPT]), max_new_tokens=3)
        gc.collect()


def test_generate_finds_the_prompts_of_a_batch_again(swarm: DigestSwarm) -> None:
    model = swarm.model()
    ids = some_ids(100, seed=5, vocab_size=90).view(2, 50)
    first = model.generate(ids, max_new_tokens=4, do_sample=False)
    num_before = swarm.num_tokens
    longer = torch.cat([first, torch.tensor([[1, 2], [3, 4]])], 1)
    text = model.generate(longer, max_new_tokens=3, do_sample=False)
    assert [row[56:].tolist() for row in text] == [text_after(row, 3) for row in longer.tolist()]
    assert {find.sequence for find in swarm.asked} == {0, 1}
    assert swarm.num_tokens - num_before == 2 * (56 - 48) + 2 * 2


def test_a_stream_finds_what_generate_has_computed(swarm: DigestSwarm) -> None:
    model, long = swarm.model(), some_ids(50, seed=6, vocab_size=90).tolist()
    model.generate(torch.tensor([long]), max_new_tokens=2, do_sample=False)
    assert asyncio.run(read(model.stream(long, max_new_tokens=4))) == text_after(long, 4)
    assert model._latest is not None and model._latest.num_prefix_tokens == 48


def test_all_logits_of_a_prompt_are_computed_although_it_is_held(swarm: DigestSwarm) -> None:
    model, long = swarm.model(), some_ids(50, seed=8, vocab_size=90)[None]
    assert torch.equal(model(long, past_key_values=model.new_cache()).logits, model(long).logits)
    assert model(long).logits.shape[1] == 50


class _Exits(LogitsProcessor):
    def __call__(self, input_ids: Any, scores: Any) -> Any:
        raise SystemExit("the user's own")


class _Widens(LogitsProcessor):
    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return torch.cat([scores, torch.full((1, 5), 1e9)], 1)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"logits_processor": LogitsProcessorList([_Exits()])}, RuntimeError),
        ({"logits_processor": LogitsProcessorList([_Widens()])}, UsageError),
    ],
    ids=["exit", "wider"],
)
async def test_nothing_that_one_text_does_ends_another_or_the_thread(
    swarm: DigestSwarm, options: dict[str, Any], kind: type[Exception]
) -> None:
    model = swarm.model()
    texts = await asyncio.gather(
        *(read(model.stream(PROMPT, max_new_tokens=20, **own)) for own in ({}, options, {}, options)),
        return_exceptions=True,
    )
    assert texts[0] == texts[2] == text_after(PROMPT, 20)
    assert isinstance(texts[1], kind) and isinstance(texts[3], kind)
    assert await read(model.stream(PROMPT, max_new_tokens=5)) == text_after(PROMPT, 5)


async def test_a_stream_has_one_reader(swarm: DigestSwarm) -> None:
    stream = swarm.model().stream(PROMPT, max_new_tokens=30)
    first = asyncio.create_task(read(stream))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="read already"):
        await stream.__anext__()
    assert await first == text_after(PROMPT, 30)


def test_a_users_own_length_is_held_against_the_context(swarm: DigestSwarm) -> None:
    criteria = StoppingCriteriaList([MaxLengthCriteria(CONTEXT + 2)])
    with pytest.raises(PromptTooLong):
        swarm.model().stream(PROMPT, max_new_tokens=5, stopping_criteria=criteria)


async def test_a_long_prompt_keeps_few_chunks_under_way(swarm: DigestSwarm) -> None:
    prompt = some_ids(240, vocab_size=90).tolist()  # 30 chunks
    swarm.is_silent = True
    stream = swarm.model().stream(prompt, max_new_tokens=2)
    reader = asyncio.create_task(read(stream))
    await asyncio.sleep(0.3)
    assert len(swarm.sessions[0].steps) == MAX_AHEAD
    await stream.aclose()
    await reader
    swarm.is_silent = False
    assert await read(swarm.model().stream(prompt, max_new_tokens=10)) == text_after(prompt, 10)
    assert swarm.model().generate(torch.tensor([prompt]), max_new_tokens=10)[0, 240:].tolist() == text_after(prompt, 10)
