"""`swarm invite`: print the join line of the swarm that this user is in, for one more machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from swarm.cli.flags import parse_flags
from swarm.cli.run import run_plain
from swarm.errors import UsageError
from swarm.flag import flag
from swarm.membership import JoinedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class InviteConfig:
    """Print the join line of the swarm that you are in; whoever has it is in, too."""

    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the join line; return the exit status."""
    return run_plain(_invite, parse_flags(InviteConfig, argv, prog="swarm invite"))


def _invite(config: InviteConfig) -> None:
    last = JoinedFile.read()
    if last is None:
        raise UsageError("you are in no swarm; `swarm init` begins one, `swarm join` joins one")
    print(last.line.encode())


if __name__ == "__main__":
    sys.exit(main())
