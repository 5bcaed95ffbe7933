"""From token ids to text that a terminal may show, piece by piece."""

from __future__ import annotations

import unicodedata
from typing import Any

UNDECIDED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer writes for bytes that are no character yet."""

_SHOWN = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\N{SYMBOL FOR DELETE}"}
_SHOWN |= dict.fromkeys(range(0x80, 0xA0), UNDECIDED)


class Words:
    """The text of token ids that come one by one; a character whose bytes are in several tokens comes whole.

    What `add` and `end` give makes up exactly what the tokenizer decodes from all of them at once.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        # Only the end is decoded anew with each token: the piece that was told last, for some tokenizers write a first
        # token differently, and what came since.
        self._context, self._begin = 0, 0
        self._told = ""

    def add(self, token: int) -> str:
        """Return what this token adds for certain; empty while a character is not whole."""
        self._ids.append(token)
        text = self._decode()
        fresh = text.rstrip(UNDECIDED)[len(self._told) :]
        self._told += fresh
        if fresh and self._told == text:
            self._context, self._begin = self._begin, len(self._ids)
            self._told = self._decode()
        return fresh

    def end(self) -> str:
        """Return what is left: bytes that never became a character."""
        fresh = self._decode()[len(self._told) :]
        self._told += fresh
        return fresh

    def _decode(self) -> str:
        text = self._tokenizer.decode(
            self._ids[self._context :], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)


def printable(text: str) -> str:
    """Return text without what would command a terminal: a stranger's server may choose the words."""
    return text.translate(_SHOWN)


def width(text: str) -> int:
    """Return how many columns text takes, nearly: terminals differ over rare characters."""
    return sum(_width(character) for character in text)


def clipped(text: str, columns: int) -> str:
    """Return text of at most so many columns, with an ellipsis where something is missing."""
    if width(text) <= columns:
        return text
    kept, taken = [], 1
    for character in text:
        taken += _width(character)
        if taken > columns:
            break
        kept.append(character)
    return "".join(kept) + "…" if columns > 0 else ""


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
