"""From tokens to text while they come: what is given is never taken back, and no half of a character is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are no character, or not yet one."""

MAX_HELD = 12
"""Tokens without a character: no character has more than four bytes, so these will never be one."""

Decode = Callable[[Sequence[int]], str]
"""Tokens to text, special ones left out."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Speller:
    """Spells one text.

    How a token is written can depend on the one before (a leading blank), so each new one is decoded together with
    those that gave text last.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._known: list[int] = []
        self._known_text = ""
        self._held: list[int] = []

    def add(self, token: int) -> str:
        """Return the text that a token completes; "" while it is half a character."""
        self._held.append(token)
        text = self._decode([*self._known, *self._held])
        if text.endswith(REPLACEMENT) and len(self._held) < MAX_HELD:
            return ""
        return self._give(text)

    def end(self) -> str:
        """Return what is held, without the half of a character at its end."""
        return self._give(self._decode([*self._known, *self._held]).rstrip(REPLACEMENT)) if self._held else ""

    def _give(self, text: str) -> str:
        new = text[len(self._known_text) :]
        self._known, self._held = self._held, []
        self._known_text = self._decode(self._known)
        return new


class Alphabet:
    """What single tokens stand for.

    Attributes:
        decode: See `Decode`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.name = lru_cache(maxsize=65536)(self._name)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return tokens as text, special ones left out."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _name(self, token: int) -> tuple[str, bytes]:
        """Return a token as text, and its bytes; those that are no characters are written `bytes:\\xe2\\x80`."""
        text: str = self._tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        piece: str = self._tokenizer.convert_ids_to_tokens(token) or ""
        if REPLACEMENT not in text:
            # A decoder leaves out the blank that begins a text.
            text = f" {text}" if piece.startswith("\u2581") and not text.startswith(" ") else text
            return text, text.encode()
        raw = _raw(piece)
        if raw is None:
            return text, text.encode()
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw


def _raw(piece: str) -> bytes | None:
    """Return the bytes that a vocabulary entry stands for, in either of the two spellings that are in use."""
    if match := _BYTE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    letters = _byte_letters()
    return bytes(letters[letter] for letter in piece) if all(letter in letters for letter in piece) else None


@lru_cache(maxsize=1)
def _byte_letters() -> dict[str, int]:
    """Return which byte each letter of a byte-level vocabulary stands for: printable ones are themselves (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}
