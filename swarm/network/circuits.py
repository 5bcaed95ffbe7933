"""Circuits: being reached through a relay, when nobody can dial us.

We speak libp2p's circuit relay v2 ourselves, over a stream of our daemon to the relay: a reservation, and then, to see
that it holds, a circuit to ourselves through it. The daemon does the rest: it takes circuits that a relay brings, dials
those of others, and relays for everybody. Its own way to a reservation (-autoRelay) begins only once several peers have
told it that it is hidden, after minutes, and cannot be asked how it went.

Source: libp2p/specs relay/circuit-v2.md; the messages are protobuf, of which we need numbers and bytes only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from hivemind.p2p import PeerID
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from swarm.errors import PeerUnreachable, ProtocolError
from swarm.network.addresses import is_loopback
from swarm.network.daemon import Daemon
from swarm.network.frame_reader import varint
from swarm.types import PeerId

_HOP = "/libp2p/circuit/relay/0.2.0/hop"
_RESERVE, _CONNECT = 0, 1
_TYPE, _PEER, _RESERVATION, _LIMIT, _STATUS = 1, 2, 3, 4, 5
"""Fields of a HopMessage; in a Peer, 1 is the id; in a Reservation, 1 is the expiry and 2 the relay's addresses; in a
Limit, 2 is the number of bytes."""

_OK = 100
_REASONS = {200: "it refuses reservations", 201: "it has too many already", 204: "it has lost our reservation"}
MIN_BYTES = 1 << 30
"""That a relay must pass on in one circuit: libp2p's own 128 KiB are a few tokens. Ours pass on 4 GiB."""

MAX_ADDRS = 3
"""Of one relay that we announce: a record has room for few."""

Field = tuple[int, int | bytes]


@dataclass(frozen=True, slots=True)
class Reservation:
    """A place at a relay.

    Attributes:
        relay: Who relays.
        addrs: Whole multiaddrs at which we are reached through it.
        expires_at: Unix time.
    """

    relay: PeerId
    addrs: tuple[Multiaddr, ...]
    expires_at: float


async def reserve(daemon: Daemon, relay: PeerId, myself: PeerId, *, timeout: float) -> Reservation:
    """Reserve a place for ourselves at `relay`, to which the daemon is connected, and see that it holds.

    A reservation that there is already is prolonged.

    Raises:
        PeerUnreachable: It is no relay, does not want to be ours, or brings us no circuit.
        ProtocolError: Its answer makes no sense.
    """
    try:
        async with asyncio.timeout(timeout):
            reservation = await _reserve(daemon, relay, myself)
            # One that a relay gave before it took itself for public is forgotten: its daemon begins anew then.
            await _check_circuit(daemon, relay, myself)
    except TimeoutError as error:
        raise PeerUnreachable(f"relay {relay}: no answer within {timeout:g} s") from error
    return reservation


async def _reserve(daemon: Daemon, relay: PeerId, myself: PeerId) -> Reservation:
    async with daemon.stream(relay, _HOP) as stream:
        stream.send(_packed(_TYPE, _RESERVE))
        fields = dict(_fields(await stream.receive()))
        at = stream.remote_addr
    _check(relay, fields)
    limit = dict(_fields(_bytes(fields.get(_LIMIT, b"")))).get(2, 0)
    if isinstance(limit, bytes) or 0 < limit < MIN_BYTES:
        raise PeerUnreachable(f"relay {relay}: it passes on no more than {limit!r:.20} bytes")
    # Where we met it ourselves comes first; it tells only those of its addresses that are public.
    told = list(_fields(_bytes(fields.get(_RESERVATION, b""))))
    found = [at, *(addr for number, value in told if number == 2 and (addr := _addr(value)) is not None)]
    bare = dict.fromkeys(str(addr).partition("/p2p/")[0] for addr in found if not is_loopback(addr) or addr == at)
    ends = f"/p2p/{relay}/p2p-circuit/p2p/{myself}"
    addrs = tuple(Multiaddr(text + ends) for text in list(bare)[:MAX_ADDRS] if "p2p-circuit" not in text)
    if not addrs:
        raise PeerUnreachable(f"relay {relay}: it is itself behind one")
    expires_at = dict(told).get(1, 0)
    return Reservation(relay, addrs, float(expires_at) if isinstance(expires_at, int) else 0.0)


async def _check_circuit(daemon: Daemon, relay: PeerId, myself: PeerId) -> None:
    """Open a circuit to ourselves, which shows that the relay has our reservation, and reaches us."""
    peer = _packed(1, PeerID.from_base58(myself).to_bytes())
    async with daemon.stream(relay, _HOP) as stream:
        stream.send(_packed(_TYPE, _CONNECT) + _packed(_PEER, peer))
        _check(relay, dict(_fields(await stream.receive())))


def _check(relay: PeerId, fields: dict[int, int | bytes]) -> None:
    status = fields.get(_STATUS, 0)
    if status != _OK:
        reason = _REASONS.get(status, "it refuses") if isinstance(status, int) else "it refuses"
        raise PeerUnreachable(f"relay {relay}: {reason} (status {status!r:.20})")


def _addr(packed: int | bytes) -> Multiaddr | None:
    try:
        addr = Multiaddr(_bytes(packed))
        str(addr)  # the bytes are only looked at now
    except (MultiaddrError, ValueError, LookupError):
        return None
    return addr


def _bytes(value: int | bytes) -> bytes:
    return value if isinstance(value, bytes) else b""


def _packed(number: int, value: int | bytes) -> bytes:
    """Return one protobuf field, a number or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def _fields(packed: bytes) -> Iterator[Field]:
    """Go through a protobuf message: field numbers, each with its number or bytes.

    Raises:
        ProtocolError: It is cut off, or of other kinds of fields.
    """
    at = 0
    while at < len(packed):
        key, at = _read_varint(packed, at)
        value, at = _read_varint(packed, at)
        if key & 7 == 0:
            yield key >> 3, value
        elif key & 7 == 2 and at + value <= len(packed):
            yield key >> 3, packed[at : at + value]
            at += value
        else:
            raise ProtocolError("a relay's answer makes no sense")


def _read_varint(packed: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(packed):
            break
        byte = packed[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ProtocolError("a relay's answer is cut off")
