"""What may stand in the DHT: our two kinds of records, each signed by the peer whose id is its subkey.

A value is the msgpack array [payload, signature]. The signature covers key, subkey, expiry and
payload, so that nothing of it can be moved to another place or prolonged. Which key a record
belongs under follows from the record itself, so that none can be stored anywhere else:

- `swarm/1/model/NAME` holds the servers' records of one model,
- `swarm/1/models` holds entries [model's name, fingerprint, number of blocks].
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
from swarm.types import PeerId, ServerRecord
from swarm.wire.fields import integer, text
from swarm.wire.limits import MAX_BLOCKS
from swarm.wire.records import MAX_RECORD_BYTES, decode_record, encode_record

REGISTRY_KEY = "swarm/1/models"

_DOMAIN = b"swarm/1/record\0"
"""First in what is signed: a signature made for anything else of ours is not valid here."""

_ENVELOPE_BYTES = 128
_EXPIRY = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One server's word that a model is served."""

    name: str
    fingerprint: str
    num_blocks: int


_ENTRY_CHECKS = (text(256), text(64), integer(1, MAX_BLOCKS))


def model_key(model: str) -> str:
    """Return the DHT key of a model's records."""
    return f"swarm/1/model/{model}"


def seal_record(record: ServerRecord, identity: Identity, *, expires_at: float) -> list[bytes]:
    """Return the signed value for `record`; `expires_at` is in the swarm's time."""
    return _seal(model_key(record.model), encode_record(record), identity, expires_at)


def seal_entry(entry: RegistryEntry, identity: Identity, *, expires_at: float) -> list[bytes]:
    """Return the signed value for a registry entry; `expires_at` is in the swarm's time."""
    payload = cast(bytes, msgpack.packb([entry.name, entry.fingerprint, entry.num_blocks]))
    return _seal(REGISTRY_KEY, payload, identity, expires_at)


def open_value(key: str, subkey: object, value: object, expires_at: float) -> ServerRecord | RegistryEntry | None:
    """Return what a value found under `key` says, or None if it breaks any rule; never raises."""
    try:
        packed = msgpack.packb(value)
        return _open(_key_bytes(key), msgpack.packb(subkey), packed, float(expires_at))
    except (TypeError, ValueError, OverflowError):
        return None


class SignedRecords(RecordValidatorBase):
    """Lets into the DHT, and out of it, only values that `open_value` accepts.

    Expired ones pass: a dictionary of records is refused as a whole if one of them is, and the last
    second of a record must not hide the others. Readers skip them.
    """

    def validate(self, record: DHTRecord) -> bool:
        """Whether `record` is one of ours, signed by its subkey's peer, and does not expire too late."""
        expires_at = record.expiration_time
        if not math.isfinite(expires_at) or expires_at > SWARM_TIME.now() + MAX_AHEAD:
            return False
        return _open(record.key, record.subkey, record.value, expires_at) is not None


def _seal(key: str, payload: bytes, identity: Identity, expires_at: float) -> list[bytes]:
    subkey = msgpack.packb(identity.peer_id)
    return [payload, identity.sign(_signed_bytes(_key_bytes(key), subkey, expires_at, payload))]


def _signed_bytes(key: bytes, subkey: bytes, expires_at: float, payload: bytes) -> bytes:
    return b"".join((_DOMAIN, key, len(subkey).to_bytes(4, "little"), subkey, _EXPIRY.pack(expires_at), payload))


def _key_bytes(key: str) -> bytes:
    return cast(bytes, DHTID.generate(source=key).to_bytes())


# Each search brings the same records from up to 20 nodes; checking a signature takes 170 us.
@lru_cache(maxsize=8192)
def _open(key: bytes, subkey: bytes, value: bytes, expires_at: float) -> ServerRecord | RegistryEntry | None:
    if len(value) > MAX_RECORD_BYTES + _ENVELOPE_BYTES or len(subkey) > _ENVELOPE_BYTES:
        return None
    try:
        peer = msgpack.unpackb(subkey)
        payload, signature = _unpack_pair(value)
        if not isinstance(peer, str) or not verify(
            PeerId(peer), signature, _signed_bytes(key, subkey, expires_at, payload)
        ):
            return None
        if key == _key_bytes(REGISTRY_KEY):
            return _decode_entry(payload)
        record = decode_record(payload, expires_at=expires_at)
    except Exception:  # msgpack raises half a dozen unrelated classes on garbage; all of them mean: not ours
        return None
    return record if record.peer == peer and key == _key_bytes(model_key(record.model)) else None


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
