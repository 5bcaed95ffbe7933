"""Running text in lines of a terminal's width, broken between words, while it still grows at its end."""

from __future__ import annotations

from swarm.chat.words import width

TAB = 8
"""Columns between tab stops."""

_TO_NEXT_LINE = "\x1b[{columns}D\x1b[K\n"
"""Takes the word before the cursor away from this line."""


class Flow:
    """A text that is written piece by piece, from the begin of a line on.

    The last column stays empty: terminals differ over a cursor behind it.

    Attributes:
        column: Where the next character goes.
    """

    def __init__(self) -> None:
        self.column = 0
        self._word = ""  # what has been written of the last one, and may have to move to the next line

    def add(self, text: str, columns: int) -> str:
        """Return what to write for a further piece: printable text and line ends, in a terminal of so many columns."""
        return "".join(self._place(character, max(2, columns - 1)) for character in text)

    def _place(self, character: str, columns: int) -> str:
        if character == "\n":
            return self._end_line()
        if character in " \t":
            step = 1 if character == " " else TAB - self.column % TAB
            if self.column + step > columns:
                return self._end_line()
            self._word = ""
            self.column += step
            return " " * step
        taken = width(character)
        before = ""
        if self.column + taken > columns:
            before = self._take_word_along()
        self.column += taken
        self._word = "" if taken == 2 else self._word + character  # Chinese, Japanese: a line may break anywhere
        return before + character

    def _end_line(self) -> str:
        self.column, self._word = 0, ""
        return "\n"

    def _take_word_along(self) -> str:
        word, taken = self._word, width(self._word)
        is_whole_line = taken >= self.column
        self.column = 0
        if not word or is_whole_line:
            self._word = ""
            return "\n"
        self.column = taken
        return _TO_NEXT_LINE.format(columns=taken) + word
