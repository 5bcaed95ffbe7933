"""Which swarm is meant: the peers asked first, and the key."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from swarm.errors import UsageError
from swarm.membership.joined_file import JoinedFile
from swarm.swarm_key import SwarmKey


@dataclass(frozen=True, slots=True)
class Joined:
    """A swarm.

    Attributes:
        peers: Multiaddrs of those that are asked first; empty for a swarm that begins with us.
        key: Its key; None for one that is open to all.
    """

    peers: tuple[str, ...]
    key: SwarmKey | None


def choose_swarm(
    initial_peers: Sequence[str],
    *,
    tell: Callable[[str], None],
    new_swarm: bool = False,
    swarm_key: str | os.PathLike[str] | SwarmKey | None = None,
) -> Joined:
    """Return the swarm of the peers given, else the one joined last, else the public one.

    Peers that are given are of a swarm without a key unless a key is given with them: that of the swarm joined last
    is none of theirs. The addresses are not parsed here.

    Args:
        tell: Told, in one line, that it is the public swarm: strangers will then serve the blocks.
        new_swarm: Begin one.
        swarm_key: The key, or its file.

    Raises:
        UsageError: Both peers and a new swarm are given, nobody is given and nobody known, or a file cannot be used.
    """
    key = swarm_key if isinstance(swarm_key, SwarmKey) or swarm_key is None else SwarmKey.read(Path(swarm_key))
    if new_swarm and initial_peers:
        raise UsageError("--new-swarm and --initial-peers exclude each other; give one of them")
    if new_swarm:
        return Joined((), key)
    if initial_peers:
        return Joined(tuple(initial_peers), key)
    last = JoinedFile.read()
    if last is not None:
        return Joined(last.line.peers, key or last.line.key)
    if key is not None:
        raise UsageError("a swarm key, but nobody to join with it; give --initial-peers ADDR, or `swarm join` first")
    public = public_peers()
    if not public:
        raise UsageError(
            "no peer to join and no public one is packaged; give --initial-peers ADDR (initial_peers in Python), or "
            "`swarm join` a swarm once, or start one with --new-swarm"
        )
    tell(f"joining the PUBLIC swarm through {', '.join(public)}")
    return Joined(public, None)


def public_peers() -> tuple[str, ...]:
    """Return the packaged multiaddrs of public bootstrap peers (`swarm/data/peers.toml`)."""
    text = resources.files("swarm").joinpath("data/peers.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["initial_peers"])
