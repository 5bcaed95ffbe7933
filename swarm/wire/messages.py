"""Messages: each declared once, with a number, and a type and range for each field.

A header is `[number, field, field, ...]`. Fields are only ever appended, with a default: a newer
peer's surplus fields are ignored, an older peer's missing ones take their defaults. An unknown
number is refused. Session ids are secret between a client and its hops: a Step is accepted from
whoever knows the id, be it the client or the hop before.

A conversation (client C, hops 1 and 2): C sends Open to both, each says Opened. C sends Step to 1
with route [2]; 1 runs it and sends it on to 2 with route []; 2 runs it and sends Result to C, on
the channel on which C opened the session. A hop that fails sends Error to C on C's own channel.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, NamedTuple, cast

import msgpack

from swarm.errors import ProtocolError
from swarm.wire.fields import Check, blob, blob_of, counts_of, integer, many, number, one_of, text
from swarm.wire.limits import MAX_ADDRS, MAX_BLOCKS, MAX_HOPS, MAX_POSITION, MAX_ROWS, MAX_TEXT, SESSION_BYTES

CODECS = ("float32", "bfloat16", "float16", "int8")
"""How a body holds activations; see `swarm.wire.codecs`."""

NO_SESSION = bytes(SESSION_BYTES)
"""In an Error: about the whole stream."""

_PACKED_TIMING = struct.Struct("<III")
TIMING_BYTES = _PACKED_TIMING.size

_COUNT = integer(0, 2**63 - 1)
_SESSION = blob(SESSION_BYTES)
_PEER = text(128)


class Row(NamedTuple):
    """One sequence's part in a step.

    Attributes:
        sequence: Number of the sequence within the session.
        source: Whose slots it starts from: itself, or another (a fork; all forks of a step read
            the state before the step).
        position: Slots kept from `source`; everything from here on is dropped, then the row's
            tokens are appended. Rolling back is therefore implicit.
        length: Tokens of this row in the body; 0 only forks or rolls back.
        keep: How many of the last tokens' outputs the client wants back.
    """

    sequence: int
    source: int
    position: int
    length: int
    keep: int


class Timing(NamedTuple):
    """What one hop spent on a step, in microseconds.

    Attributes:
        queue: From the frame's arrival until its compute began.
        compute: In the blocks.
        total: From the frame's arrival until the output was handed to the next stream.
    """

    queue: int
    compute: int
    total: int

    def packed(self) -> bytes:
        """Return the 12 bytes that a hop adds to `times`; what is beyond 71 minutes is cut off."""
        return _PACKED_TIMING.pack(*(min(max(0, value), 2**32 - 1) for value in self))


def unpack_timings(times: bytes) -> tuple[Timing, ...]:
    """Return what each hop spent, first hop first; only the client asks, so the hops need not."""
    return tuple(Timing(*values) for values in _PACKED_TIMING.iter_unpack(times))


_ROW = counts_of(Row, MAX_ROWS - 1, MAX_ROWS - 1, MAX_POSITION, MAX_POSITION, MAX_POSITION)
_TIMES = blob_of(TIMING_BYTES, MAX_HOPS)


def _field(check: Check, default: object = ...) -> Any:
    if default is ...:
        return field(metadata={"check": check})
    return field(default=default, metadata={"check": check})


class Message:
    """Base of all messages; `wire_number` stands first in the header, `carries_body` allows a body."""

    __slots__ = ()
    wire_number: ClassVar[int]
    carries_body: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """First message of both sides: versions in [oldest, newest] are spoken, the highest common one is used."""

    wire_number = 1
    oldest: int = _field(integer(1, 65535))
    newest: int = _field(integer(1, 65535))
    software: str = _field(text(64))
    features: tuple[str, ...] = _field(many(text(64), 64), ())


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Are you there? Sent on a silent stream; answered by the loop, not by the compute thread."""

    wire_number = 2
    nonce: int = _field(_COUNT)


@dataclass(frozen=True, slots=True)
class Pong(Message):
    """Yes: the nonce comes back."""

    wire_number = 3
    nonce: int = _field(_COUNT)


@dataclass(frozen=True, slots=True)
class Open(Message):
    """Open a session through blocks [start, end) of the receiver.

    `fingerprint` must be the served model's; `next_peer` and `next_addrs` (empty at the last hop)
    let the server dial its successor before the first step arrives.
    """

    wire_number = 4
    session: bytes = _field(_SESSION)
    model: str = _field(text(256))
    fingerprint: str = _field(text(64))
    start: int = _field(integer(0, MAX_BLOCKS - 1))
    end: int = _field(integer(1, MAX_BLOCKS))
    codec: str = _field(one_of(*CODECS))
    next_peer: str = _field(_PEER, "")
    next_addrs: tuple[str, ...] = _field(many(text(MAX_TEXT), MAX_ADDRS), ())


@dataclass(frozen=True, slots=True)
class Opened(Message):
    """The session is open; `free_pages` is what it could take now."""

    wire_number = 5
    session: bytes = _field(_SESSION)
    free_pages: int = _field(_COUNT, 0)


@dataclass(frozen=True, slots=True)
class Step(Message):
    """Run the rows' tokens through the session's blocks and pass the output on.

    Body: the rows' tokens one after another, (sum of lengths, D), in `codec`. `route` holds the
    peers still to come; `times` grows by one packed `Timing` a hop. Steps of an `epoch` older than the
    newest one seen are dropped without an answer: a roll-back made them stale.
    """

    wire_number = 6
    carries_body = True
    session: bytes = _field(_SESSION)
    step: int = _field(_COUNT)
    epoch: int = _field(_COUNT)
    codec: str = _field(one_of(*CODECS))
    rows: tuple[Row, ...] = _field(many(_ROW, MAX_ROWS, min_items=1))
    route: tuple[str, ...] = _field(many(_PEER, MAX_HOPS), ())
    times: bytes = _field(_TIMES, b"")


@dataclass(frozen=True, slots=True)
class Result(Message):
    """The last hop's answer. Body: the kept tokens of all rows one after another, (tokens, D)."""

    wire_number = 7
    carries_body = True
    session: bytes = _field(_SESSION)
    step: int = _field(_COUNT)
    codec: str = _field(one_of(*CODECS))
    tokens: int = _field(integer(0, MAX_POSITION))
    times: bytes = _field(_TIMES, b"")


@dataclass(frozen=True, slots=True)
class Cancel(Message):
    """Forget the steps of this session with an epoch below `epoch` that have not run yet."""

    wire_number = 8
    session: bytes = _field(_SESSION)
    epoch: int = _field(_COUNT)


@dataclass(frozen=True, slots=True)
class Close(Message):
    """Forget the session and free its pages; no answer."""

    wire_number = 9
    session: bytes = _field(_SESSION)


@dataclass(frozen=True, slots=True)
class Error(Message):
    """Something went wrong with a step, a session (`step` 0; steps count from 1), or (`NO_SESSION`) the whole stream.

    `code` names an error class of `swarm.errors`; `retry_after` counts only for Busy, in seconds.
    """

    wire_number = 10
    session: bytes = _field(_SESSION)
    step: int = _field(_COUNT)
    code: int = _field(integer(0, 65535))
    text: str = _field(text(MAX_TEXT))
    retry_after: float = _field(number(0, 86400), 0.0)


_KINDS: dict[int, type[Message]] = {
    kind.wire_number: kind for kind in (Hello, Ping, Pong, Open, Opened, Step, Result, Cancel, Close, Error)
}
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
