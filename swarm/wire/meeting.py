"""What two peers say to each other beside all sessions: who they are, that they live, whether they are reached."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.wire.fields import blob, blob_of, integer, many, text
from swarm.wire.limits import MAX_ADDRS, MAX_TEXT, NONCE_BYTES, PROOF_BYTES
from swarm.wire.message import Message, declared

_COUNT = integer(0, 2**63 - 1)
_HOST = text(128)


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """First message of both sides: versions in [oldest, newest] are spoken, the highest common one is used.

    With a swarm key `nonce` is fresh, and `proof` is that of the dialled side (`swarm.network.greeting`); else both are
    empty.
    """

    wire_number = 1
    oldest: int = declared(integer(1, 65535))
    newest: int = declared(integer(1, 65535))
    software: str = declared(text(64))
    features: tuple[str, ...] = declared(many(text(64), 64), ())
    nonce: bytes = declared(blob_of(NONCE_BYTES, 1), b"")
    proof: bytes = declared(blob_of(PROOF_BYTES, 1), b"")


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Are you there? Sent on a silent stream; answered by the loop, not by the compute thread."""

    wire_number = 2
    nonce: int = declared(_COUNT)


@dataclass(frozen=True, slots=True)
class Pong(Message):
    """Yes: the nonce comes back."""

    wire_number = 3
    nonce: int = declared(_COUNT)


@dataclass(frozen=True, slots=True)
class DialBack(Message):
    """Try to reach me, on fresh connections, at these addresses; answered by DialedBack with the same nonce."""

    wire_number = 17
    nonce: int = declared(_COUNT)
    addrs: tuple[str, ...] = declared(many(text(MAX_TEXT), MAX_ADDRS))


@dataclass(frozen=True, slots=True)
class DialedBack(Message):
    """Where of these the receiver was reached, why not elsewhere, and the IP it comes from ("": nothing was tried)."""

    wire_number = 18
    nonce: int = declared(_COUNT)
    addrs: tuple[str, ...] = declared(many(text(MAX_TEXT), MAX_ADDRS))
    text: str = declared(text(MAX_TEXT), "")
    seen: str = declared(_HOST, "")


@dataclass(frozen=True, slots=True)
class Proof(Message):
    """The dialler has the swarm's key, too: its answer to the other side's Hello, before anything else."""

    wire_number = 19
    proof: bytes = declared(blob(PROOF_BYTES))
