"""Text that a terminal may show, and the room that it takes there."""

from __future__ import annotations

import unicodedata

_SHOWN = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\N{SYMBOL FOR DELETE}"}
_SHOWN |= dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}")


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
