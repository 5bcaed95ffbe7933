"""Where a chat is shown: a terminal with a status row, or plain text that can be piped.

While an answer comes, the terminal's last row is set apart (its scroll region ends above), so that the status never
stands among the words, and what is typed is not echoed into them. Before and after, the whole screen is the terminal's
own, and the line editor's.
Source of the control sequences: ECMA-48, and DEC STD 070 for regions and the saved cursor.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol, TextIO

from swarm.chat.flow import Flow
from swarm.chat.words import clipped, printable

try:
    import termios
except ImportError:  # Windows: keys typed during an answer are seen among its words there
    HAS_TERMIOS = False
else:
    HAS_TERMIOS = True

MIN_ROWS, MIN_COLUMNS = 5, 20
"""A terminal smaller than that has no room for a status."""

_SAVE, _RESTORE = "\x1b7", "\x1b8"
_DIM, _BOLD, _RED, _INVERSE, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[7m", "\x1b[0m"


class Screen(Protocol):
    """What a chat shows itself on."""

    def write(self, text: str) -> None:
        """Show words of an answer, at once."""
        ...

    def tell(self, text: str) -> None:
        """Show what was asked for: lines of their own."""
        ...

    def note(self, text: str) -> None:
        """Show a remark, where a person looks on."""
        ...

    def complain(self, text: str) -> None:
        """Show what went wrong."""
        ...

    def status(self, text: str, *, is_news: bool = False) -> None:
        """Show how an answer is getting on."""
        ...

    def answering(self) -> AbstractContextManager[None]:
        """Return the context of one answer."""
        ...


class PlainScreen:
    """Text only: answers and what was asked for go to `out`, complaints to stderr, and nothing else is shown."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> None:
        """See `Screen`."""
        self._out.write(printable(text))
        self._out.flush()

    def tell(self, text: str) -> None:
        """See `Screen`."""
        self.write(f"{text}\n")

    def note(self, text: str) -> None:
        """See `Screen`."""

    def complain(self, text: str) -> None:
        """See `Screen`."""
        print(f"error: {printable(text)}", file=sys.stderr, flush=True)

    def status(self, text: str, *, is_news: bool = False) -> None:
        """See `Screen`."""

    @contextmanager
    def answering(self) -> Iterator[None]:
        """See `Screen`."""
        try:
            yield
        finally:
            self.write("\n")


class TerminalScreen:
    """A terminal that understands the usual control sequences."""

    def __init__(self, out: TextIO, keyboard: int) -> None:
        self._out = out
        self._keyboard = keyboard
        self._size = (0, 0)
        self._flow = Flow()
        self._has_region = False

    def write(self, text: str) -> None:
        """See `Screen`."""
        self._send(self._flow.add(printable(text), self._size[1] or _size(self._out)[1]))

    def tell(self, text: str) -> None:
        """See `Screen`."""
        self._send(f"{printable(text)}\n")

    def note(self, text: str) -> None:
        """See `Screen`."""
        self._send(f"{_DIM}{printable(text)}{_PLAIN}\n")

    def complain(self, text: str) -> None:
        """See `Screen`."""
        self._send(f"{_RED}{_BOLD}error:{_PLAIN} {printable(text)}\n")

    def status(self, text: str, *, is_news: bool = False) -> None:
        """See `Screen`."""
        if not self._fit():
            return
        rows, columns = self._size
        style = _INVERSE if is_news else _DIM
        line = clipped(printable(text).replace("\n", " "), columns - 2)  # the very last column might scroll the screen
        self._send(f"{_SAVE}\x1b[{rows};1H\x1b[2K{style}{line}{_PLAIN}{_RESTORE}")

    @contextmanager
    def answering(self) -> Iterator[None]:
        """See `Screen`."""
        self._flow = Flow()
        with self._silent_keyboard():
            self._fit()
            try:
                yield
            finally:
                self._give_back()
                self._size = (0, 0)
                self._send("\n" if self._flow.column else "")

    def _fit(self) -> bool:
        """Set the last row apart, again if the terminal has another size now; False if it has no room for that."""
        size = _size(self._out)
        if size != self._size:
            self._size = size
            self._give_back()
            self._has_region = size[0] >= MIN_ROWS and size[1] >= MIN_COLUMNS
            if self._has_region:  # one line down and up again: a cursor in the last row takes the text up with it
                self._send(f"\x1bD\x1b[A{_SAVE}\x1b[1;{size[0] - 1}r{_RESTORE}")
        return self._has_region

    def _give_back(self) -> None:
        """Let the whole screen be the text's again; below the cursor there is only the status, wherever it is now."""
        if self._has_region:
            self._send(f"{_SAVE}\x1b[r{_RESTORE}\x1b[J")
            self._has_region = False

    def _send(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    @contextmanager
    def _silent_keyboard(self) -> Iterator[None]:
        """Keep what is typed for the next line, unseen; Ctrl-C works as ever."""
        if not HAS_TERMIOS:
            yield
            return
        before = termios.tcgetattr(self._keyboard)
        silent = termios.tcgetattr(self._keyboard)
        silent[3] &= ~termios.ECHO
        termios.tcsetattr(self._keyboard, termios.TCSADRAIN, silent)
        try:
            yield
        finally:
            termios.tcsetattr(self._keyboard, termios.TCSADRAIN, before)


def _size(out: TextIO) -> tuple[int, int]:
    """Rows and columns."""
    with suppress(OSError):
        columns, rows = os.get_terminal_size(out.fileno())
        return rows, columns
    return 0, 0
