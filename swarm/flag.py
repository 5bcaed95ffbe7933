"""How a field of a config dataclass becomes a command-line flag.

Configs live in the rooms that use them and know nothing of argv: a field only carries its help text.
The command-line layer turns the fields that carry a `Flag` into an argument parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from swarm.errors import UsageError

KEY = "flag"
"""Where a field's metadata keeps its `Flag`."""

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """What the command line must know of a field beyond its name, type and default.

    Attributes:
        text: One line of help, with the unit.
        metavar: What stands for the value in the help; None derives it from the field's name.
        positional: Whether the value is given without `--name`.
        nargs: As in argparse; None is one value, or any number for a tuple.
        parse: Text to value, for what the type alone does not tell; ValueError refuses the text.
    """

    text: str
    metavar: str | None = None
    positional: bool = False
    nargs: str | None = None
    parse: Callable[[str], object] | None = None


def flag(
    text: str,
    *,
    metavar: str | None = None,
    positional: bool = False,
    nargs: str | None = None,
    parse: Callable[[str], object] | None = None,
) -> dict[str, Flag]:
    """Return the metadata that makes a field a flag: `field(default=0, metadata=flag("port to listen on"))`."""
    return {KEY: Flag(text=text, metavar=metavar, positional=positional, nargs=nargs, parse=parse)}


def parse_bytes(text: str) -> int:
    """Turn "8GB", "512MiB", "1.5g" or "4096" into bytes; K, M, G, T are powers of 1000, with an i of 1024.

    Raises:
        UsageError: Not a size.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"size {text!r} is not a number of bytes; write it like 8GB, 512MiB or 4096")
    number, prefix, binary = match.groups()
    if binary and not prefix:
        raise UsageError(f"size {text!r} has an i without K, M, G or T; write it like 512MiB")
    base = 1024 if binary else 1000
    return int(float(number) * base ** _POWERS[prefix.lower()])
