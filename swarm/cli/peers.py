"""Which swarm to join: the peers asked first."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from importlib import resources

from swarm.errors import UsageError


def initial_peers(config_peers: Sequence[str], new_swarm: bool) -> tuple[str, ...]:
    """Return the multiaddrs to dial first: those given, else the packaged public ones; none for a new swarm.

    Joining the public swarm is told in one line on stderr, since strangers will then serve the blocks. The
    addresses are not parsed here.

    Raises:
        UsageError: Both are given, or nobody is given and the package lists nobody.
    """
    if new_swarm and config_peers:
        raise UsageError("--new-swarm and --initial-peers exclude each other; give one of them")
    if new_swarm:
        return ()
    if config_peers:
        return tuple(config_peers)
    public = public_peers()
    if not public:
        raise UsageError(
            "no peer to join and no public one is packaged; give --initial-peers ADDR, or --new-swarm to start a swarm"
        )
    print(f"joining the PUBLIC swarm through {', '.join(public)}", file=sys.stderr, flush=True)
    return public


def public_peers() -> tuple[str, ...]:
    """Return the packaged multiaddrs of public bootstrap peers (`swarm/data/peers.toml`)."""
    text = resources.files("swarm").joinpath("data/peers.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["initial_peers"])
