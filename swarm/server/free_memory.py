"""How much memory a server may count on: what the machine has free, and what a container or service is allowed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def free_memory() -> int:
    """Return the bytes that this process may still take without swapping, or being killed for it."""
    return min([int(psutil.virtual_memory().available), *cgroup_rooms()])


def cgroup_rooms(root: Path = _ROOT, own: Path = _OWN) -> list[int]:
    """Return what each limit leaves that stands on our control group and those around it; none on other systems.

    File pages that the kernel would give back first count as room.
    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html
    """
    with suppress(OSError, StopIteration):
        path = next(line[3:] for line in own.read_text(encoding="utf-8").splitlines() if line.startswith("0::"))
        groups = [root.joinpath(*path.strip("/").split("/")[:depth]) for depth in range(path.count("/") + 1)]
        return [room for group in dict.fromkeys(groups) if (room := _room(group)) is not None]
    return []


def _room(group: Path) -> int | None:
    with suppress(OSError, ValueError, KeyError):  # the files are missing where there is no limit
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0, limit - used + int(counts["inactive_file"]))
    return None
