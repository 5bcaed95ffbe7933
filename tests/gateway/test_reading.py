"""Requests are read field by field: what is known has one meaning, everything else is refused by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.gateway.asking import Sampling, read_chat, read_completion
from swarm.gateway.asking.fields import read_object
from swarm.gateway.faults import Refused

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "m", "prompt": "hi"}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KNOWN = ["messages", "prompt", "model", "n", "stop", "logit_bias", "stream", "stream_options", "temperature", "seed"]
KNOWN += [
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "tools",
    "echo",
    "best_of",
    "response_format",
]


def refusal_of(call: Callable[[Any], object], value: Any) -> Refused | None:
    try:
        call(value)
    except Refused as refused:
        return refused
    return None


def test_a_request_with_every_parameter_is_read() -> None:
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": 7}
    sampling |= {"frequency_penalty": 0.5, "presence_penalty": -1, "repetition_penalty": 1.1}
    more = {"logit_bias": {"5": -100}, "ignore_eos": True, "max_completion_tokens": 9, "stop": ["a", "b"], "n": 2}
    more |= {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 3}
    passed = {"user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "store": False, "tools": [], "audio": None}
    chat = read_chat({**CHAT, **sampling, **more, **passed, "response_format": {"type": "text"}})
    asked = chat.asked
    assert (asked.model, asked.max_tokens, asked.stop, asked.num_texts, asked.num_top) == ("m", 9, ("a", "b"), 2, 3)
    assert asked.is_streamed and asked.tells_usage
    expected = {**sampling, "logit_bias": {5: -100.0}, "ignores_end": True, "presence_penalty": -1.0}
    assert asked.sampling == Sampling(**expected)


def test_defaults_are_the_apis() -> None:
    assert read_chat(CHAT).asked.max_tokens is None and read_completion(TEXT).asked.max_tokens == 16
    asked = read_chat(CHAT).asked
    assert asked.num_texts == 1 and asked.num_top is None and not asked.is_streamed and asked.sampling == Sampling()


def test_messages_are_text_of_known_roles() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    said = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts, "name": "Ada"}]
    assert read_chat({**CHAT, "messages": said}).messages == (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab", "name": "Ada"},
    )


@pytest.mark.parametrize(
    ("given", "prompts"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)), ([[1], [2, 3]], ((1,), (2, 3)))],
)
def test_prompts_are_strings_or_tokens_one_or_many(given: Any, prompts: Any) -> None:
    assert read_completion({**TEXT, "prompt": given}).prompts == prompts


def test_tiny_temperatures_are_not_greedy_and_not_zero_either() -> None:
    assert read_chat({**CHAT, "temperature": 1e-30}).asked.sampling.temperature == 0.01
    assert read_chat({**CHAT, "temperature": 0}).asked.sampling.temperature == 0


REFUSED_CHATS: list[tuple[str, Any]] = [
    ("tools", [{"type": "function"}]),
    ("tool_choice", "required"),
    ("functions", [{}]),
    ("response_format", {"type": "json_schema", "json_schema": {}}),
    ("audio", {"voice": "alloy"}),
    ("modalities", ["text", "audio"]),
    ("store", True),
    ("service_tier", "flex"),
    ("reasoning_effort", "high"),
    ("prediction", {"type": "content", "content": "x"}),
    ("web_search_options", {}),
    ("temprature", 1),
    ("echo", True),
    ("temperature", 2.1),
    ("temperature", True),
    ("temperature", "1"),
    ("temperature", float("nan")),
    ("top_p", -0.1),
    ("top_k", -2),
    ("n", 0),
    ("n", 17),
    ("n", 1.0),
    ("max_tokens", 0),
    ("frequency_penalty", 3),
    ("seed", 2**63),
    ("logit_bias", {"a": 1}),
    ("logit_bias", {"5": 101}),
    ("logit_bias", {"5": None}),
    ("logit_bias", {str(token): 1 for token in range(1025)}),
    ("stop", ["a"] * 5),
    ("stop", [""]),
    ("stop", 5),
    ("stop", "x" * 501),
    ("stop", "\ud800"),
    ("top_logprobs", 5),
    ("logprobs", 5),
    ("stream", "yes"),
    ("stream_options", {"include_usage": True}),
    ("model", ""),
    ("model", 5),
    ("messages", []),
    ("messages", "hi"),
    ("messages", None),
]


@pytest.mark.parametrize(("name", "value"), REFUSED_CHATS)
def test_what_cannot_be_had_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(Refused) as refused:
        read_chat({**CHAT, name: value})
    assert refused.value.status == 400 and refused.value.param == name and name in str(refused.value)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hi", "messages[0]"),
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages[0].tool_calls"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": "x", "mood": "good"}, "messages[0].mood"),
    ],
)
def test_messages_that_are_more_than_text_are_refused(message: Any, param: str) -> None:
    with pytest.raises(Refused) as refused:
        read_chat({**CHAT, "messages": [message]})
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("param", "more"),
    [
        ("suffix", {"suffix": "x"}),
        ("best_of", {"best_of": 3}),
        ("echo", {"echo": True, "logprobs": 1}),
        ("logprobs", {"logprobs": 6}),
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": [[]]}),
        ("prompt", {"prompt": [1, "a"]}),
        ("prompt", {"prompt": [-1]}),
        ("prompt", {"prompt": [True]}),
        ("prompt", {"prompt": ["a"] * 65}),
        ("n", {"prompt": ["a"] * 40, "n": 2}),
        ("max_completion_tokens", {"max_completion_tokens": 5}),
    ],
)
def test_completions_refuse_what_they_cannot(param: str, more: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        read_completion({**TEXT, **more})
    assert refused.value.param == param


@given(st.dictionaries(st.sampled_from(KNOWN) | st.text(max_size=5), values, max_size=6))
def test_whatever_is_sent_is_read_or_refused(body: dict[str, Any]) -> None:
    for read, base in ((read_chat, CHAT), (read_completion, TEXT)):
        for whole in (body, {**base, **body}):
            told = refusal_of(read, whole)
            assert told is None or (len(str(told)) < 400 and json.dumps(told.body()).encode())


@given(st.binary(max_size=40) | st.sampled_from([b"[" * 10**5, b'{"a":' * 10**4, b"1" * 5000, b'{"a": NaN}', b"\xff"]))
def test_bodies_that_are_no_objects_are_refused(body: bytes) -> None:
    told = refusal_of(read_object, body)
    assert told is None or told.fault == "invalid_json"
