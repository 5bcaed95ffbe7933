"""What may stand in the DHT: our two kinds of records, each signed by the peer whose id is its subkey.

A value is the msgpack array [payload, signature]. The signature covers key, subkey, expiry and
payload, so that nothing of it can be moved to another place or prolonged. Which key a record
belongs under follows from the record itself, so that none can be stored anywhere else:

- `swarm/1/model/NAME` holds the servers' records of one model,
- `swarm/1/models` holds entries [model's name, fingerprint, number of blocks].

In a private swarm each key is `swarm/1/private/` and a keyed hash of these, and each value is sealed with the swarm's
key, bound to its key and subkey: who has no key can read neither models' names nor who serves what.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import msgpack
from hivemind.dht.crypto import DHTRecord
from hivemind.dht.routing import DHTID
from hivemind.dht.validation import RecordValidatorBase

from swarm.directory.config import MAX_AHEAD
from swarm.directory.swarm_time import SWARM_TIME
from swarm.errors import ProtocolError
from swarm.network import Identity, verify
from swarm.swarm_key import SwarmKey
from swarm.types import PeerId, ServerRecord
from swarm.wire.fields import integer, text
from swarm.wire.limits import MAX_BLOCKS
from swarm.wire.records import MAX_RECORD_BYTES, decode_record, encode_record

REGISTRY_KEY = "swarm/1/models"
"""In a swarm that is open to all; see `registry_key`."""

_DOMAIN = b"swarm/1/record\0"
"""First in what is signed: a signature made for anything else of ours is not valid here."""

_KEYS, _VALUES = "directory: keys", "directory: values"
"""What a private swarm's key is used for here."""

_ENVELOPE_BYTES = 192
_EXPIRY = struct.Struct("<d")

Value = list[bytes] | bytes
"""What is stored: payload and signature; in a private swarm sealed."""


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One server's word that a model is served."""

    name: str
    fingerprint: str
    num_blocks: int


_ENTRY_CHECKS = (text(256), text(64), integer(1, MAX_BLOCKS))


def model_key(model: str, swarm_key: SwarmKey | None = None) -> str:
    """Return the DHT key of a model's records."""
    return _hidden(f"swarm/1/model/{model}", swarm_key)


def registry_key(swarm_key: SwarmKey | None = None) -> str:
    """Return the DHT key of the models' list."""
    return _hidden(REGISTRY_KEY, swarm_key)


def seal_record(
    record: ServerRecord, identity: Identity, *, expires_at: float, swarm_key: SwarmKey | None = None
) -> Value:
    """Return the signed value for `record`; `expires_at` is in the swarm's time."""
    return _seal(model_key(record.model, swarm_key), encode_record(record), identity, expires_at, swarm_key)


def seal_entry(
    entry: RegistryEntry, identity: Identity, *, expires_at: float, swarm_key: SwarmKey | None = None
) -> Value:
    """Return the signed value for a registry entry; `expires_at` is in the swarm's time."""
    payload = cast(bytes, msgpack.packb([entry.name, entry.fingerprint, entry.num_blocks]))
    return _seal(registry_key(swarm_key), payload, identity, expires_at, swarm_key)


def open_value(
    key: str, subkey: object, value: object, expires_at: float, swarm_key: SwarmKey | None = None
) -> ServerRecord | RegistryEntry | None:
    """Return what a value found under `key` says, or None if it breaks any rule; never raises."""
    try:
        packed = msgpack.packb(value)
        return _open(_key_bytes(key), msgpack.packb(subkey), packed, float(expires_at), swarm_key)
    except (TypeError, ValueError, OverflowError):
        return None


class SignedRecords(RecordValidatorBase):
    """Lets into the DHT, and out of it, only values that `open_value` accepts.

    Expired ones pass: a dictionary of records is refused as a whole if one of them is, and the last
    second of a record must not hide the others. Readers skip them.
    """

    def __init__(self, swarm_key: SwarmKey | None = None) -> None:
        self._swarm_key = swarm_key

    def validate(self, record: DHTRecord) -> bool:
        """Whether `record` is one of ours, signed by its subkey's peer, and does not expire too late."""
        expires_at = record.expiration_time
        if not math.isfinite(expires_at) or expires_at > SWARM_TIME.now() + MAX_AHEAD:
            return False
        return _open(record.key, record.subkey, record.value, expires_at, self._swarm_key) is not None


def _hidden(key: str, swarm_key: SwarmKey | None) -> str:
    return key if swarm_key is None else f"swarm/1/private/{swarm_key.prove(_KEYS, key.encode()).hex()}"


def _seal(key: str, payload: bytes, identity: Identity, expires_at: float, swarm_key: SwarmKey | None = None) -> Value:
    place, subkey = _key_bytes(key), msgpack.packb(identity.peer_id)
    pair = [payload, identity.sign(_signed_bytes(place, subkey, expires_at, payload))]
    return pair if swarm_key is None else swarm_key.seal(_VALUES, msgpack.packb(pair), place=place + subkey)


def _signed_bytes(key: bytes, subkey: bytes, expires_at: float, payload: bytes) -> bytes:
    return b"".join((_DOMAIN, key, len(subkey).to_bytes(4, "little"), subkey, _EXPIRY.pack(expires_at), payload))


def _key_bytes(key: str) -> bytes:
    return cast(bytes, DHTID.generate(source=key).to_bytes())


# Each search brings the same records from up to 20 nodes; checking a signature takes 170 us.
@lru_cache(maxsize=8192)
def _open(
    key: bytes, subkey: bytes, value: bytes, expires_at: float, swarm_key: SwarmKey | None
) -> ServerRecord | RegistryEntry | None:
    if len(value) > MAX_RECORD_BYTES + _ENVELOPE_BYTES or len(subkey) > _ENVELOPE_BYTES:
        return None
    try:
        peer = msgpack.unpackb(subkey)
        if swarm_key is not None:
            value = _unsealed(key, subkey, value, swarm_key)
        payload, signature = _unpack_pair(value)
        if not isinstance(peer, str) or not verify(
            PeerId(peer), signature, _signed_bytes(key, subkey, expires_at, payload)
        ):
            return None
        if key == _key_bytes(registry_key(swarm_key)):
            return _decode_entry(payload)
        record = decode_record(payload, expires_at=expires_at)
    except Exception:  # msgpack raises half a dozen unrelated classes on garbage; all of them mean: not ours
        return None
    return record if record.peer == peer and key == _key_bytes(model_key(record.model, swarm_key)) else None


def _unsealed(key: bytes, subkey: bytes, value: bytes, swarm_key: SwarmKey) -> bytes:
    sealed: Any = msgpack.unpackb(value)
    found = swarm_key.unseal(_VALUES, sealed, place=key + subkey) if isinstance(sealed, bytes) else None
    if found is None:
        raise ProtocolError("value is not of this private swarm")
    return found


def _unpack_pair(value: bytes) -> tuple[bytes, bytes]:
    pair: Any = msgpack.unpackb(value)
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, bytes) for part in pair):
        raise ProtocolError("value is no pair of byte strings")
    return pair[0], pair[1]


def _decode_entry(payload: bytes) -> RegistryEntry:
    values: Any = msgpack.unpackb(payload)
    if not isinstance(values, list) or len(values) < len(_ENTRY_CHECKS):
        raise ProtocolError("registry entry with missing fields")
    name, fingerprint, num_blocks = (check(value) for check, value in zip(_ENTRY_CHECKS, values, strict=False))
    return RegistryEntry(name, fingerprint, num_blocks)
