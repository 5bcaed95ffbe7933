"""`swarm join`: be in the swarm that a join line names, from now on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from swarm.cli.flags import parse_flags
from swarm.cli.run import run_plain
from swarm.errors import UsageError
from swarm.flag import flag
from swarm.membership import JoinedFile, JoinLine

_FROM_STDIN = "-"
_MAX_CHARACTERS = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinConfig:
    """Join a swarm by the line that `swarm init` printed; all commands and the library are in it from then on.

    The words of a command can be seen by other users of the machine while it runs: `-` keeps the line from them.
    """

    line: str = field(
        default=_FROM_STDIN, metadata=flag("the join line; - reads it from stdin", positional=True), repr=False
    )
    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))


def main(argv: Sequence[str] | None = None) -> int:
    """Join a swarm; return the exit status."""
    return run_plain(_join, parse_flags(JoinConfig, argv, prog="swarm join"))


def _join(config: JoinConfig) -> None:
    line = JoinLine.decode(_read() if config.line == _FROM_STDIN else config.line)
    try:
        last = JoinedFile.read()
    except UsageError:  # damaged, or open to others: what takes its place is neither
        last = None
    if last is not None and last.bootstrap_port is not None and last.line != line:
        raise UsageError("you have begun a swarm here with `swarm init`; `swarm leave` leaves it, then join the other")
    if last is None or last.line != line:
        JoinedFile(line).write()
    if line.key is not None and config.line != _FROM_STDIN:
        _tell("other users of this machine could see the line among the processes; `swarm join -` reads it from stdin")
    kind = f"private swarm {line.key.fingerprint}" if line.key else "swarm, OPEN to all: strangers may serve its blocks"
    print(f"joined the {kind} (peers: {len(line.peers)})", flush=True)
    _tell("swarm server, swarm gateway, ... and the library need no --initial-peers now")


def _read() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.read(_MAX_CHARACTERS)
    print("join line: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline(_MAX_CHARACTERS)


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
