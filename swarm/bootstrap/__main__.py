"""`python -m swarm.bootstrap`: see `--help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from swarm.bootstrap import BootstrapConfig
from swarm.bootstrap.config import PORT
from swarm.cli import parse_flags, run, which_swarm
from swarm.membership import Joined, JoinedFile


def main(argv: Sequence[str] | None = None) -> int:
    """Run a bootstrap peer until a signal ends it; return the exit status."""
    config = parse_flags(BootstrapConfig, argv, prog="python -m swarm.bootstrap")
    return run(_introduce, config)


async def _introduce(config: BootstrapConfig) -> None:
    from swarm.bootstrap.introducing import introduce  # loads hivemind, and with it torch

    await introduce(*_in_swarm(config))


def _in_swarm(config: BootstrapConfig) -> tuple[BootstrapConfig, Joined]:
    """What is run, and for which swarm: the one joined last unless the flags say another."""
    last = None if config.new_swarm or config.initial_peers or config.swarm_key else JoinedFile.read()
    if last is None:
        is_new = config.new_swarm or not config.initial_peers
        return config, which_swarm(config.initial_peers, new_swarm=is_new, swarm_key=config.swarm_key)
    kind = f"private swarm {last.line.key.fingerprint}" if last.line.key else "swarm"
    print(f"introducing peers of the {kind} joined last; --new-swarm begins another", file=sys.stderr, flush=True)
    if last.bootstrap_port is not None:
        identity = config.identity_path or JoinedFile.bootstrap_identity()
        config = replace(
            config, port=last.bootstrap_port if config.port == PORT else config.port, identity_path=identity
        )
    return config, Joined(last.line.peers, last.line.key)


if __name__ == "__main__":
    sys.exit(main())
