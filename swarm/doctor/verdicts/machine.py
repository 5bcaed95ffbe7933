"""This machine: its disk, its memory, its clock, the key of its server."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from swarm.doctor.findings import Code, Finding, fault, ok
from swarm.doctor.probes.machine import Disk, Files, Key
from swarm.errors import SwarmError
from swarm.types import PeerId

LEAST_FREE = 64 << 20
"""Bytes without which nothing works for long, even if all weights are here: keys, locks, temporary files."""

TOLERANCE = 3.0
"""Seconds by which hivemind lets two clocks differ; our own directory counts with the others' time and gets by."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


def judge_disk(disk: Disk, files: Files) -> Finding:
    """Judge whether what is missing of a model can be written."""
    needed = max(LEAST_FREE, files.missing_bytes)
    where, about = str(disk.folder), (str(disk.folder),)
    if disk.errno in _FULL or (disk.free < needed and not disk.errno):
        return fault(
            "disk",
            Code.DISK_FULL,
            f"{where}: {_mib(disk.free)} are free, {_mib(needed)} are needed"
            + (f": {os.strerror(disk.errno)}" if disk.errno else ""),
            f"free {_mib(max(needed - disk.free, needed // 4))} there, or set {_variable(files)} to a folder with room",
            *about,
        )
    if disk.errno and files.checkpoint is None:
        return fault(
            "disk",
            Code.MODEL_UNUSABLE,
            f"{where}: weights cannot be put there: {os.strerror(max(disk.errno, 0))}",
            f"make it writable, or set {_variable(files)} to another folder",
            *about,
        )
    return ok("disk", f"{_mib(disk.free)} are free for weights at {where}")


def judge_files(files: Files) -> Finding:
    """Judge whether the files of the model that was named can be used, where they are here."""
    if files.trouble is not None:
        return fault("files", Code.MODEL_UNUSABLE, str(files.trouble), "see what it says", files.name)
    if files.checkpoint is None:
        what = f"{files.name} is not on this machine yet" if files.name else "no model was named"
        return ok("files", what)
    config = files.checkpoint.config
    return ok("files", f"{files.name} is here: {config.num_blocks} blocks, {files.checkpoint.family.name}")


def judge_memory(files: Files, memory: int, shortage: SwarmError | None, num_blocks: int) -> Finding:
    """Judge whether a server's blocks fit.

    Args:
        files: Of the model.
        memory: What was allowed in bytes; 0 if that was left to us.
        shortage: Why nothing fits; None if something does.
        num_blocks: How many fit.
    """
    if shortage is None:
        return ok("memory", f"{num_blocks} blocks of {files.name} fit in memory")
    remedy = (
        "give more --memory, or --quant int4, or a smaller model" if memory else "end other programs, or add memory"
    )
    return fault("memory", Code.NOT_ENOUGH_MEMORY, f"{files.name}: {shortage}", remedy, files.name)


def judge_key(key: Key, trouble: SwarmError | None) -> Finding:
    """Judge a server's key file."""
    if trouble is not None:
        return fault(
            "identity", Code.IDENTITY_UNUSABLE, str(trouble), "see what it says; a new file gets a new peer id"
        )
    if key.peer is None:
        return ok("identity", "the key file is made at the server's first start")
    running = ", and a server runs with it on this machine" if key.is_in_use else ""
    return ok("identity", f"the key is that of peer {key.peer}{running}")


def judge_clocks(ahead: Mapping[PeerId, float]) -> list[Finding]:
    """Judge the clocks by what others say: who stands alone is wrong.

    Args:
        ahead: Seconds by which each peer's clock is ahead of this machine's.
    """
    if not ahead:
        return [ok("clock", "nobody could be asked for the time")]
    voices = [0.0, *ahead.values()]
    agreeing = {moment: sum(abs(moment - other) <= TOLERANCE for other in voices) for moment in voices}
    moment = max(agreeing, key=lambda each: (agreeing[each], -abs(each)))
    far = {peer: seconds for peer, seconds in ahead.items() if abs(seconds) > TOLERANCE}
    if not far:
        worst = max(abs(seconds) for seconds in ahead.values())
        return [ok("clock", f"as {_peers(len(ahead))} say, {worst:.1f} s apart at most")]
    if abs(moment) <= TOLERANCE and agreeing[moment] > 1:
        return [_wrong_clock(peer, seconds) for peer, seconds in far.items()]
    return [_own_clock(far)]


def _own_clock(far: Mapping[PeerId, float]) -> Finding:
    peer, seconds = next(iter(far.items()))
    direction = "behind" if seconds > 0 else "ahead of"
    who = f"{_peers(len(far))}'" if len(far) > 1 else f"peer {peer}'s"
    return fault(
        "clock",
        Code.CLOCK_WRONG,
        f"this machine's clock is {abs(seconds):.0f} s {direction} {who}; {TOLERANCE:g} s are tolerated",
        "set this machine's clock (timedatectl set-ntp true); if it is right, theirs is wrong: others take the time "
        "of the peer that they join through",
        *far,
    )


def _wrong_clock(peer: PeerId, seconds: float) -> Finding:
    direction = "ahead of" if seconds > 0 else "behind"
    return fault(
        "clock",
        Code.CLOCK_WRONG,
        f"peer {peer}'s clock is {abs(seconds):.0f} s {direction} this machine's and others'; {TOLERANCE:g} s are "
        "tolerated",
        "have its operator set it (timedatectl set-ntp true), and do not join through it until then",
        peer,
    )


def _peers(number: int) -> str:
    return f"{number} peers" if number > 1 else "one peer"


def _variable(files: Files) -> str:
    return "HF_HOME" if "/" in files.name and files.checkpoint is None else "SWARM_CACHE"


def _mib(num_bytes: int) -> str:
    if num_bytes >= 10 << 30:
        return f"{num_bytes / 2**30:.0f} GiB"
    return f"{num_bytes / 2**20:.0f} MiB"
