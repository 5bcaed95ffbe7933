"""Small files of which others shall see nothing: whole or not at all on disk, and readable by their owner alone."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from swarm.errors import UsageError

_OTHERS = 0o077


def write_private(path: Path, content: bytes) -> None:
    """Write a file with mode 0600, its new folders 0700; what stood there before is replaced as a whole.

    Raises:
        OSError: It cannot be written; what stood there before still does.
    """
    for folder in reversed(path.parents):  # mkdir(parents=True) would make the upper ones public
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    # mkstemp's files are 0600. Renamed when it is complete: a crash in between leaves no half of a secret.
    file, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_private(path: Path, *, max_bytes: int) -> bytes:
    """Return the content of a file that only its owner can read.

    Raises:
        UsageError: Others may read or write it, or it is longer than `max_bytes`; says what to do.
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if mode & _OTHERS:
            raise UsageError(f"{path} is open to other users (mode {mode & 0o777:o}); run: chmod 600 {path}")
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UsageError(f"{path} holds more than {max_bytes} bytes: it is not the file that is meant")
    return content
