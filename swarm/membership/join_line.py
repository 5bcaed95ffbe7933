"""The join line: all that a newcomer needs to be in a swarm, as one word that can be pasted.

`swarm1` stands for the format, then base64url without padding of:

    key         1 byte, 0 or 1, and the 32 bytes of the swarm's key if it is 1
    addresses   each 1 byte of length, then that many bytes of a multiaddr, whole, ending in /p2p/ID
    checksum    the first 4 bytes of the SHA-256 of all before it, `swarm1` in front

Who has the line of a private swarm is in it, so that nothing here ever puts one into a message.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from swarm.errors import UsageError
from swarm.swarm_key import KEY_BYTES, SwarmKey

_TAG = "swarm1"
MAX_PEERS = 16
_MAX_LENGTH = 8192
_CHECK_BYTES = 4
_AGAIN = "copy it again from whoever gave it to you, the whole of it"


@dataclass(frozen=True, slots=True)
class JoinLine:
    """What a join line holds.

    Attributes:
        peers: Whole multiaddrs of peers that are asked first.
        key: The swarm's; None if it is open to all.
    """

    peers: tuple[str, ...]
    key: SwarmKey | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.peers) <= MAX_PEERS:
            raise UsageError(f"a join line names 1 to {MAX_PEERS} peers, not {len(self.peers)}")

    def encode(self) -> str:
        """Return the line.

        Raises:
            UsageError: An address that is none, or too long.
        """
        content = b"\0" if self.key is None else b"\1" + self.key.to_bytes()
        for peer in self.peers:
            packed = _packed(peer)
            content += bytes([len(packed)]) + packed
        return _TAG + base64.urlsafe_b64encode(content + _checksum(content)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> JoinLine:
        """Return what a line says; the white space of a line that was wrapped does not count.

        Raises:
            UsageError: It is no join line, is damaged, or of a newer format. The message does not quote it.
        """
        word = "".join(text.split())
        if len(word) > _MAX_LENGTH or not re.fullmatch(r"swarm[0-9]*[A-Za-z0-9_-]+", word):
            raise UsageError(
                f"this is no join line: one begins with {_TAG} and has no other signs than letters, digits, - and _"
            )
        if not word.startswith(_TAG):
            raise UsageError(f"this join line is of another format than {_TAG}: update the older side")
        content = _decoded(word.removeprefix(_TAG))
        has_key, rest = content[:1], content[1:]
        if has_key == b"\1" and len(rest) >= KEY_BYTES:
            return cls(_peers(rest[KEY_BYTES:]), SwarmKey(rest[:KEY_BYTES]))
        if has_key == b"\0":
            return cls(_peers(rest))
        raise UsageError("this join line holds what this version of swarm does not know: update it")


def _decoded(word: str) -> bytes:
    try:
        packed = base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        packed = b""
    content, checksum = packed[:-_CHECK_BYTES], packed[-_CHECK_BYTES:]
    # A last letter with stray bits would decode to the same bytes: one line for one content.
    is_exact = base64.urlsafe_b64encode(packed).decode().rstrip("=") == word
    if not content or checksum != _checksum(content) or not is_exact:
        raise UsageError(f"this join line is damaged; {_AGAIN}")
    return content


def _peers(packed: bytes) -> tuple[str, ...]:
    found: list[str] = []
    while packed:
        length = packed[0]
        found.append(_unpacked(packed[1 : 1 + length]))
        packed = packed[1 + length :]
    return tuple(found)


def _packed(peer: str) -> bytes:
    try:
        addr = Multiaddr(peer)
        packed: bytes = addr.to_bytes()
        if addr.get_peer_id() and len(packed) < 256 and _unpacked(packed) == peer:
            return packed
    except (MultiaddrError, ValueError, TypeError, LookupError):
        pass
    raise UsageError(
        f"address {peer!r:.120} has no place in a join line: it is no whole multiaddr that ends in /p2p/ID"
    )


def _unpacked(packed: bytes) -> str:
    try:
        addr = Multiaddr(packed)
        text = str(addr)  # the bytes are only looked at now
        if not packed or addr.get_peer_id() is None or not text.isprintable():
            raise ValueError("no whole multiaddr")
    except (MultiaddrError, ValueError, TypeError, LookupError) as error:
        raise UsageError("this join line holds an address that cannot be read: update the older side") from error
    return text


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(_TAG.encode() + content).digest()[:_CHECK_BYTES]
