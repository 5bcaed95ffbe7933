"""Messages to header bytes and back; every field is checked on its way in.

Fields are only ever appended, with a default: a newer peer's surplus fields are ignored, an older peer's missing ones
take their defaults. An unknown number is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, NamedTuple, cast

import msgpack

from swarm.errors import ProtocolError
from swarm.wire import messages
from swarm.wire.fields import Check
from swarm.wire.limits import MAX_TEXT
from swarm.wire.message import Message
from swarm.wire.messages import NO_SESSION, Error, Result, Step

_KINDS: dict[int, type[Message]] = {kind.wire_number: kind for kind in messages.KINDS}
_CHECKS: dict[type[Message], tuple[Check, ...]] = {
    kind: tuple(entry.metadata["check"] for entry in fields(cast(Any, kind))) for kind in _KINDS.values()
}
_NAMES = {kind: tuple(entry.name for entry in fields(cast(Any, kind))) for kind in _KINDS.values()}
_NUM_REQUIRED = {kind: sum(entry.default is MISSING for entry in fields(cast(Any, kind))) for kind in _KINDS.values()}


class Prepared(NamedTuple):
    """A Step or Result encoded while its tensor is still being computed: all but its `times`."""

    head: bytes

    @classmethod
    def of(cls, message: Step | Result) -> Prepared:
        """Encode `message`, whose `times` must be empty: they are its last field, and the last two bytes."""
        return cls(encode(message)[:-2])

    def with_times(self, times: bytes) -> Encoded:
        """Return the whole message."""
        return Encoded(self.head + cast(bytes, msgpack.packb(times)))


@dataclass(frozen=True, slots=True)
class Encoded(Message):
    """A message that was encoded beforehand; `encode` returns its header as it is."""

    header: bytes


def encode(message: Message) -> bytes:
    """Return the header bytes of `message`; its fields are trusted, they are ours."""
    kind = type(message)
    if isinstance(message, Encoded):
        return message.header
    return cast(bytes, msgpack.packb([kind.wire_number, *(getattr(message, name) for name in _NAMES[kind])]))


def decode(header: bytes | bytearray | memoryview) -> Message:
    """Return the message that `header` holds.

    Raises:
        ProtocolError: No valid msgpack, an unknown number, a missing field, or a value out of range.
    """
    try:
        values = msgpack.unpackb(header, use_list=True, strict_map_key=True)
    except Exception as error:  # msgpack raises half a dozen unrelated classes on garbage
        raise ProtocolError(f"header is no msgpack: {type(error).__name__}") from error
    if not isinstance(values, list) or not values or type(values[0]) is not int:
        raise ProtocolError("header is no array that starts with a message number")
    kind = _KINDS.get(values[0])
    if kind is None:
        raise ProtocolError(f"unknown message number {values[0]}")
    return _build(kind, values[1:])


def _build(kind: type[Message], values: Sequence[object]) -> Message:
    checks = _CHECKS[kind]
    if len(values) < _NUM_REQUIRED[kind]:
        raise ProtocolError(f"{kind.__name__} has {len(values)} fields, {_NUM_REQUIRED[kind]} are needed")
    try:
        return kind(*(check(value) for check, value in zip(checks, values, strict=False)))
    except ProtocolError as error:
        raise ProtocolError(f"{kind.__name__}: {error}") from error


def error_of(error: Exception, *, session: bytes = NO_SESSION, step: int = 0) -> Error:
    """Return the Error message that tells a peer of `error`, without anything private in it."""
    code = getattr(error, "code", 0)
    words = str(error) if code else f"internal error ({type(error).__name__})"
    words = "".join(letter if letter.isprintable() else " " for letter in words)[:MAX_TEXT]
    return Error(session, step, code, words, getattr(error, "retry_after", 0.0))
