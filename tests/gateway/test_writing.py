"""Text while it comes: whole characters only, ends before its stop strings, the text of the whole decoded at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.client import AutoTokenizer
from swarm.client.streaming.likelihood import Likelihood
from swarm.gateway.answering import Piece, Writer
from swarm.gateway.answering.spelling import MAX_HELD, REPLACEMENT, Alphabet, Speller
from swarm.gateway.answering.stopping import Stops

END = 2


@lru_cache(maxsize=1)
def bundled_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained()


def bytewise(tokens: Sequence[int]) -> str:
    """A vocabulary of bytes: every character but ASCII has several tokens."""
    return bytes(tokens).decode("utf-8", "replace")


@given(st.text(max_size=30))
def test_spelling_byte_by_byte_gives_the_text_and_never_half_a_character(text: str) -> None:
    speller, given_text = Speller(bytewise), ""
    for byte in text.encode():
        given_text += speller.add(byte)
        assert text.startswith(given_text)
    assert given_text + speller.end() == text.rstrip(REPLACEMENT) or text.endswith(REPLACEMENT)


def test_the_half_of_a_character_at_the_end_is_left_out() -> None:
    speller = Speller(bytewise)
    assert [speller.add(byte) for byte in "né".encode()[:-1]] == ["n", ""] and speller.end() == ""


def test_bytes_that_never_become_a_character_do_not_hold_up_a_text_for_ever() -> None:
    speller = Speller(bytewise)
    given_text = "".join(speller.add(0xFF) for _ in range(3 * MAX_HELD))
    assert set(given_text) == {REPLACEMENT} and len(given_text) == 3 * MAX_HELD


@given(st.text(max_size=40))
def test_the_models_own_tokens_are_spelt_as_its_tokenizer_decodes_them_at_once(text: str) -> None:
    tokenizer = bundled_tokenizer()
    ids = tokenizer(text)["input_ids"]
    speller = Speller(Alphabet(tokenizer).decode)
    spelt = "".join(map(speller.add, ids)) + speller.end()
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    assert spelt == whole or (spelt == whole.rstrip(REPLACEMENT))


def test_a_vocabulary_that_leaves_out_the_first_blank_is_spelt_right() -> None:
    words = ["▁the", "▁quick", "ly", "▁", "fox"]

    def decode(tokens: Sequence[int]) -> str:
        return "".join(words[token] for token in tokens).replace("▁", " ").removeprefix(" ")

    speller = Speller(decode)
    tokens = [0, 1, 2, 3, 4]
    assert "".join(map(speller.add, tokens)) + speller.end() == decode(tokens) == "the quickly fox"


def test_tokens_have_names_and_bytes_also_where_they_are_no_characters() -> None:
    tokenizer = bundled_tokenizer()
    alphabet = Alphabet(tokenizer)
    for text in ("the sea", "é", "漢字", "🦀"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        named = [alphabet.name(token) for token in ids]
        assert b"".join(raw for _, raw in named) == text.encode()
        assert all(name.encode() == raw or name.startswith("bytes:\\x") for name, raw in named)


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=4), max_size=4), st.data())
def test_a_text_ends_before_the_first_stop_string_however_it_is_cut(text: str, strings: list[str], data: Any) -> None:
    places = [text.find(string) for string in strings if string in text]
    stops, given_text, rest = Stops(strings), "", text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        given_text += stops.add(rest[:size])
        rest = rest[size:]
        assert not any(string in given_text for string in strings)
    given_text += stops.end()
    # One that begins later may be complete earlier, if it comes in an earlier piece.
    assert stops.is_reached == bool(places)
    if not places:
        assert given_text == text
    else:
        assert text.startswith(given_text) and len(given_text) >= min(places)
        assert any(text[len(given_text) :].startswith(string) for string in strings)


class Stream:
    """What a writer needs of a stream of the client."""

    end_tokens = frozenset({0})

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = iter(tokens)
        self.likelihood: Likelihood | None = None
        self.is_closed = False

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        token = next(self._tokens, None)
        if token is None or self.is_closed:
            raise StopAsyncIteration
        self.likelihood = Likelihood(-float(token), ())
        return token

    async def aclose(self) -> None:
        self.is_closed = True


class Bytewise:
    def decode(self, tokens: Sequence[int]) -> str:
        return bytewise(tokens)


async def write(tokens: Sequence[int], *stops: str) -> list[Piece]:
    writer: Any = Writer(Stream(tokens), Bytewise(), stops)  # type: ignore[arg-type]
    return [piece async for piece in writer.pieces()]


@pytest.mark.parametrize(
    ("text", "end", "stops", "expected", "finish"),
    [
        ("hello", b"", (), "hello", "length"),
        ("hello", b"\0", (), "hello", "stop"),
        ("hello", b"", ("lo",), "hel", "stop"),
        ("hello", b"\0", ("low",), "hello", "stop"),
        ("hello", b"", ("low",), "hello", "length"),
        ("né€", b"", ("€",), "né", "stop"),
        ("stop", b"", ("stop",), "", "stop"),
    ],
)
async def test_a_text_says_why_it_ends(
    text: str, end: bytes, stops: tuple[str, ...], expected: str, finish: str
) -> None:
    pieces = await write(text.encode() + end, *stops)
    assert "".join(piece.text for piece in pieces) == expected
    assert [piece.finish for piece in pieces] == [None] * (len(pieces) - 1) + [finish]


async def test_each_token_comes_with_its_text_and_none_of_a_stop_string_or_an_end() -> None:
    pieces = await write("aé-b!!\0".encode(), "b!")
    told = [(each.token, each.offset) for piece in pieces for each in piece.written]
    assert told == [(ord("a"), 0), (0xC3, 1), (0xA9, 1), (ord("-"), 2)]
    pieces = await write(b"ab\0")
    assert [each.token for piece in pieces for each in piece.written] == [ord("a"), ord("b")]
