"""Logging: one logger a file, to stderr, key nouns first (peer, session, span)."""

from __future__ import annotations

import logging
import sys


def get_logger(name: str) -> logging.Logger:
    """Return the logger of the module `name` (pass `__name__`)."""
    return logging.getLogger(name)


def set_up(*, debug: bool) -> None:
    """Send our log to stderr, at DEBUG or INFO; other libraries' only from WARNING on.

    Called once, by the command-line layer; as a library we never touch the root logger.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s", "%H:%M:%S"))
    ours = logging.getLogger("swarm")
    ours.handlers = [handler]
    ours.propagate = False
    ours.setLevel(logging.DEBUG if debug else logging.INFO)
