"""Members met before, in a file for each swarm: the way in when none of the initial peers lives any more.

The file is text, a first line that says what it is, then one multiaddr a line. Whatever is wrong with it, the swarm is
joined as if there were none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from swarm.log import get_logger
from swarm.membership.folders import peers_folder
from swarm.private_file import write_private
from swarm.swarm_key import SwarmKey

MAX_ADDRS = 64
"""That are kept: enough that some of them live after a week."""

MAX_FILES = 64
"""Swarms that are remembered; the one that was not joined for longest goes first."""

_MAX_BYTES = 64 * 1024
_HEAD = "swarm-peers-1"

logger = get_logger(__name__)


class PeerCache:
    """The members that are remembered of one swarm.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, peer_ids: Sequence[str], key: SwarmKey | None) -> PeerCache | None:
        """Return the cache of a private swarm, or of the one that these initial peers are of; None without any."""
        if key is None and not peer_ids:
            return None
        text = " ".join(sorted(peer_ids)) if key is None else f"key {key.fingerprint}"
        return cls(peers_folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.txt")

    def read(self) -> tuple[str, ...]:
        """Return the members' addresses, the last met first; none, and one line in the log, if they cannot be read."""
        try:
            with self.path.open("rb") as stream:
                content = stream.read(_MAX_BYTES + 1)
            head, *lines = content.decode("ascii").splitlines()
            if len(content) > _MAX_BYTES or head != _HEAD or len(lines) > MAX_ADDRS or not all(map(_is_whole, lines)):
                raise ValueError("it is not what was written")
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            logger.warning("members met before are not remembered: %s: %s", self.path, error)
            return ()
        return tuple(lines)

    def write(self, addrs: Iterable[str]) -> None:
        """Remember these, as many as there is room for; a disk that is full costs one line in the log."""
        lines = [_HEAD, *list(dict.fromkeys(filter(_is_whole, addrs)))[:MAX_ADDRS]]
        try:
            if not self.path.exists():
                _make_room(self.path.parent)
            write_private(self.path, "".join(f"{line}\n" for line in lines).encode("ascii"))
        except OSError as error:
            logger.warning("members are not remembered: %s: %s", self.path, error.strerror)


def _make_room(folder: Path) -> None:
    files = sorted(folder.glob("*.txt"), key=lambda path: path.stat().st_mtime)
    for path in files[: max(0, len(files) - MAX_FILES + 1)]:
        path.unlink(missing_ok=True)


def _is_whole(text: str) -> bool:
    try:
        return len(text) <= 512 and text.isascii() and str(Multiaddr(text)) == text and "/p2p/" in text
    except (MultiaddrError, ValueError, TypeError, LookupError):
        return False
