"""`python -m swarm.server`: serve blocks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from swarm.cli.flags import parse_flags
from swarm.cli.peers import which_swarm
from swarm.cli.run import run
from swarm.server.config import ServerConfig

SPIN_COUNT = "20000"
"""Rounds that an idle OpenMP thread spins before it sleeps. The default spins for milliseconds and
takes the core from the next hop when several servers share a machine."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal; return the exit status."""
    config = parse_flags(ServerConfig, argv, prog="python -m swarm.server")
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read once, when torch loads its OpenMP
    return run(_serve, config)


async def _serve(config: ServerConfig) -> None:
    from swarm.server.face.face import Face
    from swarm.server.server import run_server

    joined = which_swarm(config.initial_peers, new_swarm=config.new_swarm, swarm_key=config.swarm_key)
    face = Face(config)
    await run_server(config, joined, face.ready, around=face.around)


if __name__ == "__main__":
    sys.exit(main())
