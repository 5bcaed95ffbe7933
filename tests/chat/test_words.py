from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import AutoTokenizer
from swarm.chat.words import Words, clipped, printable, width


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained()


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    words = Words(tokenizer)
    return [*(words.add(token) for token in ids), words.end()]


@given(text=st.text(max_size=40))
@settings(max_examples=150)
def test_pieces_make_up_what_is_decoded_at_once(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained() if not CACHE else CACHE[0]
    CACHE[:] = [tokenizer]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@given(ids=st.lists(st.integers(0, 49151), max_size=30))
@settings(max_examples=150)
def test_so_they_do_for_tokens_that_no_text_has(ids: list[int]) -> None:
    tokenizer = AutoTokenizer.from_pretrained() if not CACHE else CACHE[0]
    CACHE[:] = [tokenizer]
    whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join(pieces(tokenizer, ids)) == whole


CACHE: list[Any] = []


def test_a_character_of_several_tokens_comes_whole(tokenizer: Any) -> None:
    ids = tokenizer("🦜", add_special_tokens=False).input_ids
    assert len(ids) > 1
    assert [piece for piece in pieces(tokenizer, ids) if piece] == ["🦜"]


def test_words_come_as_soon_as_they_are_there(tokenizer: Any) -> None:
    ids = tokenizer("The sea is wide.", add_special_tokens=False).input_ids
    assert pieces(tokenizer, ids) == ["The", " sea", " is", " wide", ".", ""]


def test_nothing_commands_the_terminal() -> None:
    hostile = "a\x1b]0;title\x07b\x1b[2Jc\r\x9b31md\x7f\te\n"
    shown = printable(hostile)
    assert not [c for c in shown if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0]
    assert shown.startswith("a␛]0;title␇b␛[2Jc␍") and shown.endswith("\te\n")


def test_columns_are_counted_as_terminals_do() -> None:
    assert (width("abc"), width("日本"), width("e\N{COMBINING ACUTE ACCENT}")) == (3, 4, 1)
    assert clipped("日本語", 5) == "日本…" and width(clipped("日本語" * 9, 5)) <= 5
    assert clipped("abc", 3) == "abc" and clipped("abcd", 3) == "ab…" and clipped("abcd", 0) == ""
