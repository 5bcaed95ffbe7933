"""`python -m swarm.gateway`: see `--help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from swarm.cli import initial_peers, parse_flags, run
from swarm.gateway import GatewayConfig

SPIN_COUNT = "20000"
"""Rounds that an idle OpenMP thread spins before it sleeps: servers may share the machine."""


def main(argv: Sequence[str] | None = None) -> int:
    """Answer requests until a signal; return the exit status."""
    config = parse_flags(GatewayConfig, argv, prog="python -m swarm.gateway")
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read once, when torch loads its OpenMP
    return run(_serve, config)


async def _serve(config: GatewayConfig) -> None:
    from swarm.gateway.gateway import run_gateway  # loads torch

    await run_gateway(config, initial_peers(config.initial_peers, False), _print_ready)


def _print_ready(url: str, models: Sequence[str]) -> None:
    print(f"ready url={url} models={','.join(models)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
