"""Stop strings: a text ends before the first of them, wherever the borders of its tokens are."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Lets text through up to a stop string, and holds back what may be the beginning of one.

    Attributes:
        is_reached: Whether a stop string has come; nothing is let through any more.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._longest = max(map(len, self._strings), default=0)
        self._held = ""
        self.is_reached = False

    def add(self, text: str) -> str:
        """Return what can be given."""
        if not self._strings:
            return text
        if self.is_reached:
            return ""
        whole = self._held + text
        found = [place for string in self._strings if (place := whole.find(string)) >= 0]
        if found:
            self.is_reached, self._held = True, ""
            return whole[: min(found)]
        kept = self._beginning(whole)
        self._held = whole[len(whole) - kept :]
        return whole[: len(whole) - kept]

    def end(self) -> str:
        """Return what was held back: no more text comes."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """Return the length of the longest end of a text that a stop string begins with."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(string.startswith(end) for string in self._strings):
                return length
        return 0
