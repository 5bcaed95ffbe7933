from __future__ import annotations

from typing import Any

import pytest

from swarm import AutoTokenizer
from swarm.chat.conversation import Conversation
from swarm.errors import PromptTooLong, UsageError


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained()


def test_the_prompt_is_the_whole_conversation(tokenizer: Any) -> None:
    talk = Conversation(tokenizer, 8192, "Be brief.")
    talk.ask("Hello?")
    talk.answer("Hi.")
    talk.ask("Who are you?")
    ids, room = talk.prompt(100)
    text = tokenizer.decode(ids)
    assert all(piece in text for piece in ("Be brief.", "Hello?", "Hi.", "Who are you?"))
    assert room == 100 and talk.num_forgotten == 0


def test_the_oldest_turns_give_way_when_the_context_is_full(tokenizer: Any) -> None:
    talk = Conversation(tokenizer, 100, "Be brief.")
    for number in range(20):
        talk.ask(f"This is question number {number}, is it not?")
        talk.answer("It is.")
    talk.ask("And the last one?")
    ids, room = talk.prompt(1000)
    text = tokenizer.decode(ids)
    assert "And the last one?" in text and "Be brief." in text and "number 0" not in text
    assert talk.num_forgotten > 0 and talk.num_forgotten % 2 == 0  # whole turns
    assert room >= 16 and len(ids) + room == 100


def test_a_question_that_does_not_fit_is_told(tokenizer: Any) -> None:
    talk = Conversation(tokenizer, 40)
    talk.ask("word " * 50)
    with pytest.raises(PromptTooLong, match="context is 40"):
        talk.prompt(10)


def test_an_open_question_gives_way_to_the_next(tokenizer: Any) -> None:
    talk = Conversation(tokenizer, 8192)
    assert not talk.reopen()
    talk.ask("one")
    talk.ask("two")
    assert [message["content"] for message in talk.messages] == ["two"]
    talk.answer("2")
    assert talk.reopen() and [message["content"] for message in talk.messages] == ["two"]


def test_a_model_without_a_template_is_told(tokenizer: Any) -> None:
    class Bare:
        chat_template = None

    talk = Conversation(Bare(), 100)
    talk.ask("Hello?")
    with pytest.raises(UsageError, match="no chat template"):
        talk.prompt(10)


def test_what_a_template_raises_is_told_in_one_line(tokenizer: Any) -> None:
    strict = AutoTokenizer.from_pretrained()
    strict.chat_template = "{{ raise_exception('no system role here') }}"
    talk = Conversation(strict, 100, "Be brief.")
    talk.ask("Hello?")
    with pytest.raises(UsageError, match="no system role here"):
        talk.prompt(10)
