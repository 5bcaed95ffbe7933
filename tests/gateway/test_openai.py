"""The stock `openai` client against a gateway over three real servers: every field, and the texts of `generate()`."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import urllib.parse
from contextlib import closing
from typing import Any

import openai
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI
from transformers import LogitsProcessor, LogitsProcessorList

from swarm.client import AutoTokenizer, SwarmForCausalLM
from tests.gateway.conftest import KEYS, MODEL, Live
from tests.swarm.asking import Inspector
from tests.web.odd import odd_headers

pytestmark = pytest.mark.slow

PROMPT = "Once upon a time, in a small village by the sea, there lived"
MESSAGES: list[Any] = [
    {"role": "system", "content": "You answer in one sentence."},
    {"role": "user", "content": "Write three words with accents, and an emoji."},
]
NEW = 24


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained()


def generated(model: SwarmForCausalLM, tokenizer: Any, ids: Any, new_tokens: int = NEW, **options: Any) -> str:
    """Return the text that `generate()` adds."""
    ids = torch.tensor([ids]) if isinstance(ids, list) else ids
    options = {"do_sample": False, "max_new_tokens": new_tokens, **options}
    text: str = tokenizer.decode(model.generate(ids, **options)[0, ids.shape[1] :], skip_special_tokens=True)
    return text.rstrip("\ufffd")


def complete(client: OpenAI, prompt: Any = PROMPT, **options: Any) -> str:
    options = {"temperature": 0, "max_tokens": NEW, **options}
    text: str = client.completions.create(model=MODEL, prompt=prompt, **options).choices[0].text
    return text


def test_models_tell_their_state(client: OpenAI) -> None:
    (listed,) = client.models.list().data
    assert listed.id == MODEL and client.models.retrieve(MODEL) == listed
    state = listed.model_extra["swarm"] if listed.model_extra else {}
    assert (state["num_blocks"], state["servers"], state["state"]) == (30, 3, "ready") and state["missing"] == []
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


@pytest.mark.parametrize("prompt", [PROMPT, "def fibonacci(n):\n    ", "Il était une fois"])
def test_greedy_text_is_the_text_of_generate(
    client: OpenAI, model: SwarmForCausalLM, tokenizer: Any, prompt: str
) -> None:
    ids = tokenizer(prompt)["input_ids"]
    expected = generated(model, tokenizer, ids)
    assert complete(client, prompt) == complete(client, ids) == expected
    streamed = client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=NEW, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == expected


def test_a_chat_is_the_text_of_generate_and_streams_with_usage(
    client: OpenAI, model: SwarmForCausalLM, tokenizer: Any
) -> None:
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)["input_ids"]
    expected = generated(model, tokenizer, list(ids), 40)
    options: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_completion_tokens": 40}
    whole = client.chat.completions.create(**options)
    assert whole.choices[0].message.content == expected and whole.choices[0].message.role == "assistant"
    assert whole.usage is not None and whole.usage.prompt_tokens == len(ids)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    said = [chunk.choices[0] for chunk in chunks[:-1]]
    assert said[0].delta.role == "assistant" and "".join(each.delta.content or "" for each in said) == expected
    assert said[-1].finish_reason == whole.choices[0].finish_reason
    assert {chunk.id for chunk in chunks} == {chunks[0].id} and chunks[0].object == "chat.completion.chunk"


def test_texts_end_at_their_length_and_at_their_end(client: OpenAI) -> None:
    said: Any = [{"role": "user", "content": "Say hello."}]
    ask = client.chat.completions.create
    cut = ask(model=MODEL, messages=said, temperature=0, max_tokens=3)
    assert cut.choices[0].finish_reason == "length" and cut.usage and cut.usage.completion_tokens == 3
    ended = ask(model=MODEL, messages=said, temperature=0, max_tokens=200)
    assert ended.choices[0].finish_reason == "stop" and ended.usage and ended.usage.completion_tokens < 200
    more = ask(model=MODEL, messages=said, temperature=0, max_tokens=60, extra_body={"ignore_eos": True})
    assert more.usage and more.usage.completion_tokens == 60


async def test_many_at_once_each_get_their_own_text(live: Live, model: SwarmForCausalLM, tokenizer: Any) -> None:
    prompts = [f"{PROMPT} {name}, who" for name in ("Ada", "Bo", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal")]
    async with AsyncOpenAI(base_url=f"{live.url}/v1", api_key=KEYS[1], max_retries=0) as client:

        async def one(prompt: str) -> str:
            stream = await client.completions.create(
                model=MODEL, prompt=prompt, temperature=0, max_tokens=16, stream=True
            )
            return "".join([chunk.choices[0].text async for chunk in stream])

        texts = await asyncio.gather(*map(one, prompts))
    for prompt, text in zip(prompts, texts, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        assert text == await asyncio.to_thread(generated, model, tokenizer, ids, 16)


def test_stop_strings_end_a_text_across_the_borders_of_tokens(client: OpenAI) -> None:
    whole = complete(client)
    middle = whole.find(" ", len(whole) // 2)
    stop = whole[middle - 3 : middle + 3]
    expected = whole[: whole.find(stop)]
    assert complete(client, stop=stop) == complete(client, stop=["no such words", stop]) == expected
    chunks = list(
        client.completions.create(model=MODEL, prompt=PROMPT, temperature=0, max_tokens=NEW, stop=[stop], stream=True)
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_seeds_repeat_a_text_as_generate_does(client: OpenAI, model: SwarmForCausalLM, tokenizer: Any) -> None:
    ids = tokenizer(PROMPT)["input_ids"]
    for own, theirs in (
        ({"temperature": 1}, {}),
        ({"temperature": 0.7, "top_p": 0.8}, {"temperature": 0.7, "top_p": 0.8}),
        (
            {"temperature": 1.5, "extra_body": {"top_k": 5, "min_p": 0.05}},
            {"temperature": 1.5, "top_k": 5, "min_p": 0.05},
        ),
    ):
        torch.manual_seed(11)
        expected = generated(model, tokenizer, ids, **{"do_sample": True, "top_k": 0, **theirs})
        assert complete(client, seed=11, **own) == expected
    assert complete(client, temperature=1, seed=12) != complete(client, temperature=1, seed=11)


class _Penalties(LogitsProcessor):
    """What the API's documentation says, written down plainly."""

    def __init__(self, start: int, frequency: float, presence: float) -> None:
        self.start, self.frequency, self.presence = start, frequency, presence

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        said = input_ids[0, self.start :].tolist()
        for token in set(said):
            scores[0, token] = scores[0, token] - said.count(token) * self.frequency - self.presence
        return scores


def test_penalties_are_the_apis_and_repetition_is_transformers(
    client: OpenAI, model: SwarmForCausalLM, tokenizer: Any
) -> None:
    ids = tokenizer("1, 1, 1, 1,")["input_ids"]
    plain = complete(client, ids)
    penalties = LogitsProcessorList([_Penalties(len(ids), 1.5, 0.5)])
    expected = generated(model, tokenizer, ids, logits_processor=penalties)
    assert complete(client, ids, frequency_penalty=1.5, presence_penalty=0.5) == expected != plain
    expected = generated(model, tokenizer, ids, repetition_penalty=1.3)
    assert complete(client, ids, extra_body={"repetition_penalty": 1.3}) == expected != plain


def test_biases_ban_and_force_tokens(client: OpenAI, tokenizer: Any) -> None:
    first = tokenizer(complete(client, max_tokens=1), add_special_tokens=False)["input_ids"][0]
    assert complete(client, max_tokens=1, logit_bias={str(first): -100}) != complete(client, max_tokens=1)
    (forced,) = tokenizer(" pig", add_special_tokens=False)["input_ids"]
    assert complete(client, max_tokens=3, logit_bias={str(forced): 100}) == " pig pig pig"


def test_logprobs_are_the_models_own(client: OpenAI, model: SwarmForCausalLM, tokenizer: Any) -> None:
    ids = list(tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)["input_ids"])
    ask: Any = client.chat.completions.create
    choice = ask(model=MODEL, messages=MESSAGES, seed=1, max_tokens=6, logprobs=True, top_logprobs=4).choices[0]
    told = choice.logprobs.content
    assert b"".join(bytes(each.bytes) for each in told).decode(errors="ignore") == choice.message.content
    chosen = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=1)
    expected = model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
    values, tokens = expected.topk(4)
    assert [each.logprob for each in told[0].top_logprobs] == pytest.approx(values.tolist(), abs=1e-3)
    assert told[0].top_logprobs[0].token == tokenizer.decode(chosen[0, -1:]) or tokens[0] != chosen[0, -1]
    assert told[0].logprob == pytest.approx(float(expected[tokenizer.convert_tokens_to_ids(_piece(told[0]))]), abs=1e-3)
    silent = ask(model=MODEL, messages=MESSAGES, max_tokens=1).choices[0]
    assert silent.logprobs is None


def _piece(told: Any) -> str:
    return str(told.token).replace(" ", "Ġ").replace("\n", "Ċ")


def test_logprobs_of_completions_have_their_own_form_also_in_streams(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "temperature": 0, "max_tokens": 8, "logprobs": 2}
    choice = client.completions.create(**options).choices[0]
    told = choice.logprobs
    assert told is not None and told.tokens and told.token_logprobs and told.text_offset and told.top_logprobs
    assert "".join(told.tokens) == choice.text
    assert [choice.text[start:].startswith(token) for start, token in zip(told.text_offset, told.tokens, strict=True)]
    for token, logprob, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert len(top) == 2 and top[token] == logprob == max(top.values()) and logprob <= 0
    streamed = [chunk.choices[0].logprobs for chunk in client.completions.create(**options, stream=True)]
    assert [token for part in streamed if part and part.tokens for token in part.tokens] == told.tokens
    assert [place for part in streamed if part and part.text_offset for place in part.text_offset] == told.text_offset


def test_several_texts_and_prompts_come_in_order(client: OpenAI) -> None:
    # Not two prompts of one beginning: after equal tokens equal draws may choose equal words.
    answer = client.completions.create(model=MODEL, prompt=["The sea", "My sky"], n=2, seed=5, max_tokens=8)
    texts = [choice.text for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3] and texts[0] != texts[1] != texts[3]
    assert texts[0] == complete(client, "The sea", temperature=1, seed=5, max_tokens=8)
    assert texts[3] == complete(client, "My sky", temperature=1, seed=6, max_tokens=8)
    assert complete(client, "The sea", echo=True).startswith("The sea")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"temperature": 3}, "temperature"),
    ({"extra_body": {"no_such_parameter": 1}}, "no_such_parameter"),
    ({"max_tokens": 100_000}, "max_tokens"),
    ({"messages": [{"role": "user", "content": "sea " * 9000}]}, "messages"),
]


@pytest.mark.parametrize(("options", "param"), BAD)
def test_what_cannot_be_had_is_told_by_its_name(client: OpenAI, options: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **options})
    assert refused.value.param == param and param in str(refused.value)


def test_wrong_keys_and_models_are_the_clients_own_errors(live: Live, client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        live.client("canary-key-of-nobody").models.list()
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="x")


async def test_a_reader_who_leaves_frees_his_pages_on_all_hops(live: Live) -> None:
    client = AsyncOpenAI(base_url=f"{live.url}/v1", api_key=KEYS[0], max_retries=0)
    async with Inspector(live.swarm) as inspector, client:
        for stream in (True, False):
            await inspector.wait_empty(5)
            asked: Any = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=2000, stream=stream, n=2)
            reading = asyncio.create_task(asked)
            while not all(stats.sequences for stats in await inspector.stats()):
                await asyncio.sleep(0)
            if stream:
                await (await reading).close()
            else:
                reading.cancel()
            assert await inspector.wait_empty(5) < 1.0
            assert all(stats.pages_used == 0 for stats in await inspector.stats())


def test_the_route_of_a_text_is_told_while_it_streams(live: Live, client: OpenAI) -> None:
    stream = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=48, stream=True, temperature=0)
    found: list[Any] = []
    for count, chunk in enumerate(stream):
        if count == 20:
            found.append(json.loads(ask(live, "GET", f"/api/v1/route/{chunk.id}")[1]))
    found.append(json.loads(ask(live, "GET", f"/api/v1/route/{chunk.id}")[1]))
    for route in found:
        assert [(hop["start"], hop["end"]) for hop in route["hops"]] == [(0, 7), (7, 19), (19, 30)]
        assert {hop["peer"] for hop in route["hops"]} == {ready["peer"] for ready in live.swarm.ready}
        assert all(hop["compute_ms"] > 0 for hop in route["hops"]) and route["tokens_per_s"] > 0
        assert math.isclose(
            route["step_ms"],
            route["back_ms"] + sum(hop[f"{part}_ms"] for hop in route["hops"] for part in PARTS),
            abs_tol=0.1,
        )
    assert [route["state"] for route in found] == ["running", "done"]


PARTS = ("network", "queue", "compute", "handling")

json_values = st.none() | st.booleans() | st.integers(-3, 300) | st.floats(-3, 3) | st.text(max_size=6)
nested = json_values | st.lists(json_values, max_size=3) | st.dictionaries(st.text(max_size=6), json_values, max_size=2)
NAMES = ("messages", "prompt", "n", "stop", "seed", "top_p", "top_k", "temperature", "stream", "logprobs", "logit_bias")
MORE_NAMES = ("top_logprobs", "echo", "tools", "presence_penalty", "frequency_penalty", "repetition_penalty", "min_p")
fields = st.sampled_from((*NAMES, *MORE_NAMES))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["chat/completions", "completions"]), st.dictionaries(fields | st.text(max_size=4), nested))
def test_no_request_breaks_the_gateway(live: Live, path: str, body: dict[str, Any]) -> None:
    base = {"messages": [{"role": "user", "content": "hi"}]} if "chat" in path else {"prompt": "hi"}
    whole = {"model": MODEL, "max_tokens": 2, **base, **body}
    status, text = ask(live, "POST", f"/v1/{path}", json.dumps(whole).encode())
    assert status in (200, 400), text
    assert "error" in json.loads(text) if status == 400 else '"error"' not in text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["GET", "POST", "PUT", "OPTIONS"]), st.text(max_size=20), st.binary(max_size=60), st.booleans())
def test_no_path_method_or_body_breaks_it(live: Live, method: str, path: str, body: bytes, has_key: bool) -> None:
    quoted = urllib.parse.quote(path)
    status, _ = ask(live, method, f"/v1/{quoted}", body, {} if has_key else {"Authorization": "Bearer canary"})
    assert status < 500 and (has_key or status == 401)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["GET /v1/models", "POST /v1/completions", "GET /", "PUT /x"]), odd_headers(), st.booleans())
@example(asked="POST /v1/completions", odd={"Content-Encoding": "gzip"}, has_key=True)
@example(asked="POST /v1/completions", odd={"Content-Encoding": "gzip"}, has_key=False)
def test_no_header_breaks_it_or_fills_its_log(live: Live, asked: str, odd: dict[str, str], has_key: bool) -> None:
    method, path = asked.split()
    before = len(live.written())
    key = {} if has_key else {"Authorization": "Bearer canary"}
    status, text = ask(live, method, path, b"abcde", {**key, **odd})
    assert status < 500 and (has_key or status in (400, 401)), (status, text)
    assert not any(word in live.written()[before:] for word in ("Traceback", "Unhandled", "fault of ours"))


def test_keys_are_nowhere_in_what_the_process_says(live: Live) -> None:
    for header in (f"Bearer {KEYS[0]}x", f"Basic {KEYS[1]}", f"Bearer {KEYS[1]}\x01", f"Bearer{KEYS[1]}:"):
        status, text = ask(live, "GET", "/v1/models", headers={"Authorization": header})
        assert status in (400, 401) and not any(key in text for key in KEYS)
    for path in ("/metrics", "/healthz", "/v1/models", "/v1/nothing"):
        assert not any(key in ask(live, "GET", path)[1] for key in KEYS)
    assert not any(key in live.written() for key in KEYS)


def ask(
    live: Live, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Return the status and the body of an answer, without any client's help."""
    with closing(http.client.HTTPConnection(live.url.removeprefix("http://"), timeout=30)) as connection:
        headers = {"Authorization": f"Bearer {KEYS[0]}", **(headers or {})}
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection._buffer.append(f"{name}: {value}".encode())  # as it is: http.client would refuse some
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
