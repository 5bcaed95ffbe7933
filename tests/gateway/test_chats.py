"""Chats by the stock `openai` client over three real servers: several texts, likelihoods, stops, kinds of content."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from openai import OpenAI

from tests.gateway.conftest import MODEL

pytestmark = pytest.mark.slow

SYSTEM = "You answer in one sentence."
QUESTION = "Please name three colours."
MESSAGES: list[Any] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]


def chat(client: OpenAI, **options: Any) -> Any:
    asked = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 12, **options}
    return client.chat.completions.create(**asked)


def said(client: OpenAI, **options: Any) -> str:
    return str(chat(client, **options).choices[0].message.content)


def test_two_texts_are_the_same_whole_and_streamed(client: OpenAI) -> None:
    drawn = {"temperature": 1, "seed": 5}
    whole = chat(client, n=2, **drawn)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1] and texts[0] != texts[1]
    assert texts == [said(client, **{**drawn, "seed": seed}) for seed in (5, 6)]
    pieces: dict[int, list[Any]] = defaultdict(list)
    usage = None
    for chunk in chat(client, n=2, stream=True, stream_options={"include_usage": True}, **drawn):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces[choice.index].append(choice)
    assert ["".join(each.delta.content or "" for each in pieces[index]) for index in (0, 1)] == texts
    for index in (0, 1):
        assert pieces[index][0].delta.role == "assistant"
        assert pieces[index][-1].finish_reason == whole.choices[index].finish_reason
    assert usage == whole.usage
    alone = [chat(client, **{**drawn, "seed": seed}).usage for seed in (5, 6)]
    assert whole.usage.prompt_tokens == alone[0].prompt_tokens, "it counts once"
    assert whole.usage.completion_tokens == sum(each.completion_tokens for each in alone)


def test_likelihoods_of_a_streamed_chat_are_those_of_the_whole_one(client: OpenAI) -> None:
    options: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "max_tokens": 6}
    whole = chat(client, **options).choices[0]
    told = whole.logprobs.content
    assert len(told) == 6 and all(len(each.top_logprobs) == 2 for each in told)
    assert "".join(each.token for each in told) == whole.message.content
    chunks = [chunk.choices[0] for chunk in chat(client, stream=True, **options)]
    streamed = [each for chunk in chunks if chunk.logprobs for each in chunk.logprobs.content]
    assert [each.token for each in streamed] == [each.token for each in told]
    assert [each.logprob for each in streamed] == pytest.approx([each.logprob for each in told], abs=1e-3)
    for one, other in zip(streamed, told, strict=True):
        assert [top.token for top in one.top_logprobs] == [top.token for top in other.top_logprobs]


def test_a_chat_ends_before_its_stop_string(client: OpenAI) -> None:
    whole = said(client)
    stop = whole[len(whole) // 2 :][:3]
    expected = whole[: whole.find(stop)]
    answer = chat(client, stop=stop).choices[0]
    assert (answer.message.content, answer.finish_reason) == (expected, "stop")
    chunks = [chunk.choices[0] for chunk in chat(client, stop=[stop, "no such words"], stream=True)]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].finish_reason == "stop"


def test_content_in_parts_other_names_of_roles_and_what_is_passed_over_change_nothing(client: OpenAI) -> None:
    expected = said(client)
    parts = [{"type": "text", "text": part} for part in (QUESTION[:7], QUESTION[7:])]
    developer = {"role": "developer", "content": SYSTEM}
    assert said(client, messages=[developer, {"role": "user", "content": parts}]) == expected
    about = {"user": "ada", "metadata": {"run": "7"}, "safety_identifier": "x", "prompt_cache_key": "y"}
    assert said(client, **about) == expected
    assert said(client, messages=MESSAGES[1:]) != expected, "without its system prompt it is another chat"
    usage = [chat(client, messages=each, max_tokens=1).usage.prompt_tokens for each in (MESSAGES, MESSAGES[1:])]
    assert usage[0] != usage[1]
