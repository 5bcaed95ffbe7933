"""`python -m swarm.monitor`: see `--help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from swarm.cli import parse_flags, run, which_swarm
from swarm.monitor.config import MonitorConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run a monitor until a signal ends it; return the exit status."""
    return run(_monitor, parse_flags(MonitorConfig, argv, prog="python -m swarm.monitor"))


async def _monitor(config: MonitorConfig) -> None:
    from swarm.monitor.running import monitor  # loads hivemind, and with it torch

    await monitor(config, which_swarm(config.initial_peers, swarm_key=config.swarm_key))


if __name__ == "__main__":
    sys.exit(main())
