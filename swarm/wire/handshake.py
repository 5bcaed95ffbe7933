"""Versions: what we speak, and how two peers agree on one."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from swarm.errors import VersionMismatch
from swarm.wire.meeting import Hello

OLDEST, NEWEST = 3, 3
"""Protocol versions that this software speaks."""


def software_version() -> str:
    """Return the installed version of the package, for Hello and records."""
    try:
        return version("swarm")
    except PackageNotFoundError:
        return "unknown"


def our_hello() -> Hello:
    """Return the Hello that we open every stream with."""
    return Hello(OLDEST, NEWEST, software_version())


def agree(theirs: Hello) -> int:
    """Return the highest protocol version that both sides speak.

    Raises:
        VersionMismatch: There is none; the message names both sides.
    """
    common = min(NEWEST, theirs.newest)
    if common < max(OLDEST, theirs.oldest):
        raise VersionMismatch(
            f"peer speaks protocol {theirs.oldest}..{theirs.newest} (swarm {theirs.software}), "
            f"we speak {OLDEST}..{NEWEST} (swarm {software_version()}); update the older side"
        )
    return common
