"""The swarm joined last: kept in a file of the user's settings, read by every command that is given no peers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import UsageError
from swarm.membership.folders import config_folder
from swarm.membership.join_line import JoinLine
from swarm.private_file import read_private, write_private

_VERSION = 1
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class JoinedFile:
    """What is remembered of it.

    Attributes:
        line: Its peers and key.
        bootstrap_port: Where this machine introduces its peers, if `swarm init` has made it here; else None.
    """

    line: JoinLine
    bootstrap_port: int | None = None

    @staticmethod
    def path() -> Path:
        """Return where the file is, if there is one."""
        return config_folder() / "joined.json"

    @staticmethod
    def bootstrap_identity() -> Path:
        """Return the key file of the bootstrap peer that `swarm init` makes."""
        return config_folder() / "bootstrap.key"

    @classmethod
    def read(cls) -> JoinedFile | None:
        """Return what was remembered last; None if nothing is.

        Raises:
            UsageError: The file is open to others, or damaged; says what to do.
        """
        path = cls.path()
        try:
            content = json.loads(read_private(path, max_bytes=_MAX_BYTES))
            line, port = JoinLine.decode(str(content["line"])), content.get("bootstrap_port")
            if content["version"] != _VERSION or not (port is None or (type(port) is int and 0 < port < 65536)):
                raise ValueError("unknown version or port")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"the swarm joined last, {path}: {error.strerror}") from error
        except UsageError as error:
            raise UsageError(f"the swarm joined last: {error}") from error
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise UsageError(f"{path} is damaged; join again with `swarm join`, or run `swarm leave`") from error
        return cls(line, port)

    def write(self) -> None:
        """Remember this instead of what was remembered before.

        Raises:
            UsageError: The file cannot be written.
        """
        content = {"version": _VERSION, "line": self.line.encode(), "bootstrap_port": self.bootstrap_port}
        try:
            write_private(self.path(), json.dumps(content).encode() + b"\n")
        except OSError as error:
            raise UsageError(f"{self.path()}: {error.strerror}; make it writable") from error

    @classmethod
    def remove(cls) -> bool:
        """Forget the swarm joined last; whether there was one.

        Raises:
            UsageError: The file cannot be removed.
        """
        try:
            cls.path().unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise UsageError(f"{cls.path()}: {error.strerror}") from error
        return True
