"""Where a user's own files lie, as the XDG base directory specification has it."""

from __future__ import annotations

import os
from pathlib import Path


def config_folder() -> Path:
    """Return $SWARM_CONFIG, else `swarm` in the user's folder of settings ($XDG_CONFIG_HOME, else ~/.config)."""
    if chosen := os.environ.get("SWARM_CONFIG"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config").expanduser() / "swarm"


def cache_folder() -> Path:
    """Return $SWARM_CACHE, else `swarm` in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache)."""
    if chosen := os.environ.get("SWARM_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "swarm"
