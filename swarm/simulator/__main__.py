"""`python -m swarm.simulator`: see `--help`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec

from swarm.cli import parse_flags, run_plain
from swarm.errors import UsageError
from swarm.simulator import SimulatorConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate a swarm and print what came of it; return the exit status."""
    return run_plain(_simulate, parse_flags(SimulatorConfig, argv, prog="python -m swarm.simulator"))


def _simulate(config: SimulatorConfig) -> None:
    if config.plots is not None and find_spec("matplotlib") is None:
        raise UsageError("--plots needs matplotlib: pip install 'swarm[plots]'")
    # numpy, which `--help` does without.
    from swarm.simulator.report import as_text, make_report, write_json
    from swarm.simulator.scenarios import simulate

    started = time.monotonic()
    world, samples, routes = simulate(config)
    report = make_report(world, samples, routes)
    print(as_text(config, report, took=time.monotonic() - started), flush=True)
    if config.json is not None:
        write_json(config.json, config, report, samples, routes)
    if config.plots is not None:
        from swarm.simulator.plots import draw

        for path in draw(config.plots, config, samples, routes):
            print(f"plot={path}")


if __name__ == "__main__":
    sys.exit(main())
