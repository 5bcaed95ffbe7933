"""Frames: the two lengths in front of every message, checked before anything is read."""

from __future__ import annotations

import struct

from swarm.errors import ProtocolError
from swarm.wire.limits import MAX_BODY_BYTES, MAX_HEADER_BYTES

_PREFIX = struct.Struct("<II")

PREFIX_BYTES = _PREFIX.size


def encode_prefix(header_bytes: int, body_bytes: int) -> bytes:
    """Return the 8 bytes that announce a header and a body.

    Raises:
        ProtocolError: A length over its limit; nothing may be sent then.
    """
    _check(header_bytes, body_bytes)
    return _PREFIX.pack(header_bytes, body_bytes)


def parse_prefix(prefix: bytes | memoryview) -> tuple[int, int]:
    """Return (header length, body length), in bytes.

    Raises:
        ProtocolError: A length over its limit, or no header: the stream is not ours, close it.
    """
    header_bytes, body_bytes = _PREFIX.unpack(prefix)
    _check(header_bytes, body_bytes)
    return header_bytes, body_bytes


def _check(header_bytes: int, body_bytes: int) -> None:
    if not 0 < header_bytes <= MAX_HEADER_BYTES:
        raise ProtocolError(f"frame header of {header_bytes} bytes; 1 to {MAX_HEADER_BYTES} are allowed")
    if body_bytes > MAX_BODY_BYTES:
        raise ProtocolError(f"frame body of {body_bytes} bytes; at most {MAX_BODY_BYTES} are allowed")
