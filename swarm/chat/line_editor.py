"""Lines as a person types them: editing, and a history that outlives the program."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

try:
    import readline
except ImportError:  # Windows: its console edits lines itself
    readline = None  # type: ignore[assignment]

MAX_LINES = 1000
"""Lines that the history keeps."""

_PROMPT = "\x01\x1b[1;33m\x02»\x01\x1b[0m\x02 "
"""The escape sequences stand between marks that tell readline that they take no room."""


class LineEditor:
    """Reads lines from the terminal, or from whatever stdin is.

    Args:
        is_terminal: Whether a person sits there.
        history: File for what is typed, of the user alone; None keeps none.
    """

    def __init__(self, *, is_terminal: bool, history: Path | None) -> None:
        self._prompt = _PROMPT if is_terminal else ""
        self._history = history if is_terminal and readline is not None else None
        if self._history is not None:
            with suppress(OSError):
                self._history.parent.mkdir(parents=True, exist_ok=True)
                self._history.touch(mode=0o600)
                readline.read_history_file(self._history)
            readline.set_history_length(MAX_LINES)

    def read(self) -> str:
        """Return the next line; one that ends in a backslash goes on in the following one.

        Raises:
            EOFError: There is none.
            KeyboardInterrupt: Ctrl-C.
        """
        lines = [input(self._prompt)]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input("  " if self._prompt else ""))
        return "\n".join(lines).strip()

    def close(self) -> None:
        """Write the history."""
        if self._history is not None:
            with suppress(OSError):
                readline.write_history_file(self._history)
                os.chmod(self._history, 0o600)
