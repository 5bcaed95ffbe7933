"""`python -m swarm.status`: see `--help`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from swarm.cli import parse_flags, run, which_swarm
from swarm.status.config import StatusConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Look once and print what is there; return the exit status: 0 each model is whole, 1 not."""
    config = parse_flags(StatusConfig, argv, prog="python -m swarm.status")
    found: list[bool] = []

    async def tell(config: StatusConfig) -> None:
        # Loads hivemind, which `--help` does without.
        from swarm.monitor.shapes import swarm_shape
        from swarm.status.looking import look
        from swarm.status.table import as_text

        joined = which_swarm(config.initial_peers, swarm_key=config.swarm_key)
        state = await look(joined, model=config.model, timeout=config.timeout)
        found.append(state.is_whole)
        print(json.dumps(swarm_shape(state), indent=1) if config.json else as_text(state), flush=True)

    return run(tell, config) or int(not all(found))


if __name__ == "__main__":
    sys.exit(main())
