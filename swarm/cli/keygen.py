"""`swarm keygen`: make the key of a private swarm."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from swarm.cli.flags import parse_flags
from swarm.cli.run import run_plain
from swarm.flag import flag
from swarm.swarm_key import SwarmKey


@dataclass(frozen=True, slots=True, kw_only=True)
class KeygenConfig:
    """Make the key of a private swarm, in a file that only you can read; every member needs the same."""

    file: str = field(default="swarm.key", metadata=flag("where to; never overwritten", positional=True))
    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))


def main(argv: Sequence[str] | None = None) -> int:
    """Make a key; return the exit status."""
    return run_plain(_keygen, parse_flags(KeygenConfig, argv, prog="swarm keygen"))


def _keygen(config: KeygenConfig) -> None:
    key = SwarmKey.generate()
    key.write(Path(config.file))
    print(f"key={Path(config.file)} fingerprint={key.fingerprint}")


if __name__ == "__main__":
    sys.exit(main())
