"""`python -m swarm.chat`: talk with a model of the swarm."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial

from swarm.chat import ChatConfig
from swarm.cli import parse_flags, which_swarm
from swarm.cli.run import run_plain


def main(argv: Sequence[str] | None = None) -> int:
    """Talk until the input ends; return the exit status."""
    config = parse_flags(ChatConfig, argv, prog="python -m swarm.chat")
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return run_plain(partial(_talk, is_terminal), config)


def _talk(is_terminal: bool, config: ChatConfig) -> None:
    joined = which_swarm(config.initial_peers, swarm_key=config.swarm_key)
    from swarm.chat.talk import talk  # loads torch and transformers

    talk(config, joined, is_terminal=is_terminal)


if __name__ == "__main__":
    sys.exit(main())
