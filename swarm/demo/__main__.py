"""`python -m swarm.demo`: start a bootstrap peer and servers, stream an answer, stop everything."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from swarm.blocks.files.bundled import DEFAULT_MODEL
from swarm.cli import parse_flags, run_plain
from swarm.demo.config import DemoConfig
from swarm.demo.processes import local_swarm
from swarm.server.__main__ import SPIN_COUNT

NUM_BLOCKS = 30


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    config = parse_flags(DemoConfig, argv, prog="python -m swarm.demo")
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # the servers share this machine with us
    return run_plain(_demo, config)


def even_spans(num_blocks: int, num_servers: int) -> list[str]:
    """Return `--blocks` values that share the blocks as evenly as whole numbers allow."""
    bounds = [index * num_blocks // num_servers for index in range(num_servers + 1)]
    return [f"{start}:{end}" for start, end in pairwise(bounds)]


def _demo(config: DemoConfig) -> None:
    spans = even_spans(NUM_BLOCKS, config.servers)
    _tell(f"starting a bootstrap peer and {config.servers} servers of {DEFAULT_MODEL}, blocks {', '.join(spans)} ...")
    flags = ["--dtype", config.dtype, "--threads", str(config.threads)]
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="swarm-demo-") as logs,
        local_swarm(spans, model=DEFAULT_MODEL, server_flags=flags, logs=Path(logs)) as local,
    ):
        _tell(f"all {NUM_BLOCKS} blocks are served after {time.monotonic() - started:.1f} s:")
        for ready in local.ready:
            _tell(f"  {ready['blocks']:>6}  {ready['addr']}")
        # These imports take seconds, and no core is free for them while the servers do theirs.
        from swarm.demo.answer import answer

        answer(config, local, _tell)
        _tell("\nstopping ...")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
