"""`swarm leave`: forget the swarm joined last."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from swarm.cli.flags import parse_flags
from swarm.cli.run import run_plain
from swarm.flag import flag
from swarm.membership import JoinedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveConfig:
    """Forget the swarm joined last, its key included; what runs already stays in it until it ends."""

    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))


def main(argv: Sequence[str] | None = None) -> int:
    """Leave; return the exit status."""
    return run_plain(_leave, parse_flags(LeaveConfig, argv, prog="swarm leave"))


def _leave(config: LeaveConfig) -> None:
    if JoinedFile.remove():
        print("left; without --initial-peers it is the PUBLIC swarm from now on. Its join line leads back")
    else:
        print("you were in no swarm")


if __name__ == "__main__":
    sys.exit(main())
