"""Records: a server's announcement as bytes, bounded and checked like a message.

The bytes are a msgpack array of the fields of `ServerRecord` in order, version first; the
signature around it belongs to the directory. Fields are only ever appended.
"""

from __future__ import annotations

from typing import cast

import msgpack

from swarm.errors import ProtocolError
from swarm.types import PeerId, Reach, ServerRecord, ServerState, Span
from swarm.wire.fields import Check, integer, many, number, one_of, text
from swarm.wire.limits import MAX_ADDRS, MAX_BLOCKS, MAX_TEXT

RECORD_VERSION = 1

MAX_RECORD_BYTES = 64 * 1024
"""4,096 block digests of 16 characters fit; anything longer is no record of ours."""

MAX_ROUND_TRIPS = 16
"""Of a record: a server's likely next hops are few."""


def _round_trip(value: object) -> tuple[str, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ProtocolError(f"{value!r:.40} is no peer and its round trip")
    return text(128)(value[0]), number(0, 3600)(value[1])


def _span(value: object) -> Span | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise ProtocolError(f"{value!r:.40} is no span")
    start, end = integer(0, MAX_BLOCKS - 1)(value[0]), integer(1, MAX_BLOCKS)(value[1])
    if not start < end:
        raise ProtocolError(f"span {start}:{end} is empty")
    return Span(start, end)


_PER_SECOND = number(0, 1e12)
_FIELDS: tuple[tuple[str, Check], ...] = (
    ("peer", text(128)),
    ("model", text(256)),
    ("fingerprint", text(64)),
    ("num_blocks", integer(1, MAX_BLOCKS)),
    ("start", integer(0, MAX_BLOCKS - 1)),
    ("end", integer(1, MAX_BLOCKS)),
    ("digests", many(text(32), MAX_BLOCKS)),
    ("state", one_of(*(state.value for state in ServerState))),
    ("decode_per_s", _PER_SECOND),
    ("prefill_per_s", _PER_SECOND),
    ("free_pages", integer(0, 2**53)),
    ("load", integer(0, 2**31)),
    ("dtype", text(16)),
    ("quant", text(16)),
    ("addrs", many(text(MAX_TEXT), MAX_ADDRS)),
    ("public_name", text(64)),
    ("version", text(64)),
    ("kernel", text(32)),
    ("reach", one_of(*(reach.value for reach in Reach))),
    ("since", number(0, 1e12)),
    ("round_trips", many(_round_trip, MAX_ROUND_TRIPS)),
    ("next_span", _span),
)

_NUM_REQUIRED = 17
"""Fields of the first version's records; later ones have defaults."""


def encode_record(record: ServerRecord) -> bytes:
    """Return the bytes of `record`; the expiry is not in them, the directory keeps it beside."""
    values = {name: getattr(record, name, None) for name, _ in _FIELDS}
    values |= {"start": record.span.start, "end": record.span.end, "state": record.state.value}
    values["reach"] = record.reach.value
    values["next_span"] = record.next_span and (record.next_span.start, record.next_span.end)
    return cast(bytes, msgpack.packb([RECORD_VERSION, *(values[name] for name, _ in _FIELDS)]))


def decode_record(packed: bytes, *, expires_at: float) -> ServerRecord:
    """Return the record in `packed`.

    Raises:
        ProtocolError: Not msgpack, too long, a newer incompatible version, or a field out of range.
    """
    values = _unpack(packed)
    checked = {name: check(value) for (name, check), value in zip(_FIELDS, values[1:], strict=False)}
    start, end = checked.pop("start"), checked.pop("end")
    if not start < end <= checked["num_blocks"]:
        raise ProtocolError(f"record with span {start}:{end} of {checked['num_blocks']} blocks")
    if len(checked["digests"]) != end - start:
        raise ProtocolError(f"record with {len(checked['digests'])} digests for {end - start} blocks")
    if (wanted := checked.get("next_span")) is not None and wanted.end > checked["num_blocks"]:
        raise ProtocolError(f"record that wants span {wanted} of {checked['num_blocks']} blocks")
    checked["state"] = ServerState(checked["state"])
    checked["peer"] = PeerId(checked["peer"])
    if "reach" in checked:
        checked["reach"] = Reach(checked["reach"])
    return ServerRecord(span=Span(start, end), expires_at=expires_at, **checked)


def _unpack(packed: bytes) -> list[object]:
    if len(packed) > MAX_RECORD_BYTES:
        raise ProtocolError(f"record of {len(packed)} bytes; at most {MAX_RECORD_BYTES} are allowed")
    try:
        values = msgpack.unpackb(packed, use_list=True, strict_map_key=True)
    except Exception as error:  # msgpack raises half a dozen unrelated classes on garbage
        raise ProtocolError(f"record is no msgpack: {type(error).__name__}") from error
    if not isinstance(values, list) or len(values) <= _NUM_REQUIRED or values[0] != RECORD_VERSION:
        raise ProtocolError("record of an unknown version or with missing fields")
    return values
