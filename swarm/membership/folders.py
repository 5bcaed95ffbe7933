"""Where a user's own files lie, as the XDG base directory specification has it."""

from __future__ import annotations

import os
from pathlib import Path


def config_folder() -> Path:
    """Return $SWARM_CONFIG, else `swarm` in the user's folder of settings ($XDG_CONFIG_HOME, else ~/.config)."""
    if chosen := os.environ.get("SWARM_CONFIG"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config").expanduser() / "swarm"


def peers_folder() -> Path:
    """Return $SWARM_PEERS, else `peers` in $SWARM_CACHE, else `swarm/peers` in the user's cache ($XDG_CACHE_HOME)."""
    if chosen := os.environ.get("SWARM_PEERS"):
        return Path(chosen).expanduser()
    if cache := os.environ.get("SWARM_CACHE"):
        return Path(cache).expanduser() / "peers"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "swarm" / "peers"
