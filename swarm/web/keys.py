"""API keys: who may ask. Only digests are kept, so that no log, page or traceback can show a key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path

from swarm.errors import UsageError

MIN_LENGTH, MAX_LENGTH = 8, 256
"""Characters of a key: fewer can be guessed, more do not fit where people paste them."""


_SETTING = re.compile(r"([a-z-]+)=([0-9]{1,15})")

MAX_FILE = 64 * 1024
"""Characters of a file of keys: more is some other file, given by mistake."""


class Keys:
    """A set of API keys, told apart by a number: `key-1` is the first one given.

    Raises:
        UsageError: One is too short or too long, or has characters that no HTTP header carries.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        for number, key in enumerate(keys, 1):
            if not MIN_LENGTH <= len(key) <= MAX_LENGTH or not (key.isascii() and key.isprintable()) or " " in key:
                raise UsageError(
                    f"API key {number}: give {MIN_LENGTH} to {MAX_LENGTH} printable ASCII characters without blanks"
                )
        self._digests = tuple(dict.fromkeys(map(_digest, keys)))

    @classmethod
    def read(cls, keys: Sequence[str], file: Path | None = None) -> Keys:
        """Return `keys` and those in `file` (`read_lines`); what is set behind a key is for others to read.

        Raises:
            UsageError: The file cannot be read or holds no key, or one is none; no key is quoted.
        """
        return cls(keys if file is None else (*keys, *(key for key, _ in read_lines(file))))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __len__(self) -> int:
        return len(self._digests)

    def __repr__(self) -> str:
        return f"Keys({len(self)})"

    def find(self, authorization: str) -> str | None:
        """Return the name of the key in an Authorization header, or None if it has none of ours.

        `Bearer KEY` is what programs send; `Basic` with the key as password (any user) is what browsers ask for.
        Takes as long for a key that is nearly right as for one that is not.
        """
        given = _digest(_secret(authorization))
        found = [number for number, each in enumerate(self._digests, 1) if hmac.compare_digest(each, given)]
        return f"key-{found[0]}" if found else None


def read_lines(file: Path) -> list[tuple[str, dict[str, int]]]:
    """Return the keys of a file, one a line, each with the numbers set behind it: `KEY NAME=NUMBER ...`.

    One file may serve several programs: whoever does not know a name passes over it. Empty lines and those that begin
    with # are skipped.

    Raises:
        UsageError: The file cannot be read or holds no key, or something else stands behind one; none is quoted.
    """
    try:
        with file.open(encoding="utf-8") as text:
            lines = [line.strip() for line in text.read(MAX_FILE).splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise UsageError(f"keys cannot be read from {file}: {reason}") from None
    told = [line.split() for line in lines if line and not line.startswith("#")]
    if not told:
        raise UsageError(f"{file} holds no key: write one on each line")
    found = list[tuple[str, dict[str, int]]]()
    for number, (key, *words) in enumerate(told, 1):
        settings = [_SETTING.fullmatch(word) for word in words]
        if not all(settings):  # the word is not quoted: it may be the rest of a key with a blank in it
            raise UsageError(f"{file}, key {number}: only NAME=NUMBER, of 15 digits at most, may stand behind a key")
        found.append((key, {each[1]: int(each[2]) for each in settings if each is not None}))
    return found


def require_keys(host: str, keys: Keys) -> None:
    """Refuse to let strangers in without a key.

    Raises:
        UsageError: `host` can be reached from other machines, and there is no key.
    """
    if not keys and not is_loopback(host):
        raise UsageError(f"--host {host} lets other machines in: give --api-key KEY too, or listen on 127.0.0.1")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address or name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _secret(authorization: str) -> str:
    scheme, _, rest = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return ""
    return ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
