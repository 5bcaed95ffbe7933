"""Logging: one logger a file, to stderr, key nouns first (peer, session, span)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_WHOLE = "%(asctime)s %(levelname).1s %(name)s: %(message)s"
_CLEAR_LINE = "\r\x1b[K"

_bars: list[object] = []
"""Progress bars that stand on the terminal's last line now."""


def get_logger(name: str) -> logging.Logger:
    """Return the logger of the module `name` (pass `__name__`)."""
    return logging.getLogger(name)


def set_up(*, debug: bool) -> None:
    """Send our log to stderr, at DEBUG or INFO; other libraries' only from WARNING on.

    Called once, by the command-line layer; as a library we never touch the root logger.
    """
    handler = _Console(sys.stderr)
    handler.setFormatter(logging.Formatter(_WHOLE, "%H:%M:%S") if debug else _Plain(datefmt="%H:%M:%S"))
    ours = logging.getLogger("swarm")
    ours.handlers = [handler]
    ours.propagate = False
    ours.setLevel(logging.DEBUG if debug else logging.INFO)


@contextmanager
def bar_on_last_line() -> Iterator[None]:
    """While a progress bar stands on the terminal's last line: what is logged takes its place, and it comes back."""
    bar = object()
    _bars.append(bar)
    try:
        yield
    finally:
        _bars.remove(bar)


class _Console(logging.StreamHandler):  # type: ignore[type-arg]
    def format(self, record: logging.LogRecord) -> str:
        return (_CLEAR_LINE if _bars else "") + super().format(record)


class _Plain(logging.Formatter):
    """What the owner of a machine reads: the time and the sentence; how grave it is, where it is."""

    def __init__(self, *, datefmt: str) -> None:
        super().__init__("%(asctime)s %(message)s", datefmt)
        self._grave = logging.Formatter("%(asctime)s %(levelname)s: %(message)s", datefmt)

    def format(self, record: logging.LogRecord) -> str:
        return self._grave.format(record) if record.levelno > logging.INFO else super().format(record)
