"""`python -m swarm.bootstrap`: see `--help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from swarm.bootstrap import BootstrapConfig
from swarm.cli import parse_flags, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run a bootstrap peer until a signal ends it; return the exit status."""
    config = parse_flags(BootstrapConfig, argv, prog="python -m swarm.bootstrap")
    from swarm.bootstrap.introducing import introduce  # loads hivemind, and with it torch

    return run(introduce, config)


if __name__ == "__main__":
    sys.exit(main())
