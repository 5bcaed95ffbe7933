from __future__ import annotations

import time
from collections.abc import Iterator

import msgpack
import pytest
from hivemind.dht.crypto import DHTRecord
from hivemind.dht.routing import DHTID
from hivemind.utils import MSGPackSerializer
from hypothesis import given
from hypothesis import strategies as st

from swarm.directory import SignedRecords
from swarm.directory.config import MAX_AHEAD
from swarm.directory.signed import REGISTRY_KEY, RegistryEntry, model_key, open_value, seal_entry, seal_record
from swarm.network import Identity
from tests.directory.members import MODEL, record_of

KEY = model_key(MODEL)


@pytest.fixture(scope="module")
def identity() -> Iterator[Identity]:
    mine = Identity.load(None)
    yield mine
    mine.close()


def stored(key: str, subkey: object, value: object, expires_at: float) -> DHTRecord:
    """What hivemind shows a validator."""
    packed = MSGPackSerializer.dumps
    return DHTRecord(DHTID.generate(source=key).to_bytes(), packed(subkey), packed(value), expires_at)


def test_a_sealed_record_and_entry_open_again(identity: Identity) -> None:
    expires_at = time.time() + 60
    record = record_of(identity.peer_id, expires_at=expires_at)
    value = seal_record(record, identity, expires_at=expires_at)
    assert open_value(KEY, identity.peer_id, value, expires_at) == record
    assert SignedRecords().validate(stored(KEY, identity.peer_id, value, expires_at))
    entry = RegistryEntry(MODEL, "ff", 4)
    value = seal_entry(entry, identity, expires_at=expires_at)
    assert open_value(REGISTRY_KEY, identity.peer_id, value, expires_at) == entry
    assert SignedRecords().validate(stored(REGISTRY_KEY, identity.peer_id, value, expires_at))


def test_nothing_of_a_record_can_be_changed_or_moved(identity: Identity) -> None:
    expires_at = time.time() + 60
    other = Identity.load(None)
    value = seal_record(record_of(identity.peer_id), identity, expires_at=expires_at)
    payload, signature = value
    forged = seal_record(record_of(identity.peer_id), other, expires_at=expires_at)
    elsewhere = model_key("another")
    cases = [
        (KEY, identity.peer_id, value, expires_at + 1),
        (KEY, identity.peer_id, value, expires_at - 1),
        (KEY, identity.peer_id, [payload.replace(b"tiny", b"tinx"), signature], expires_at),
        (KEY, identity.peer_id, [payload, signature[:-1] + b"x"], expires_at),
        (KEY, identity.peer_id, [payload, b""], expires_at),
        (KEY, identity.peer_id, [payload], expires_at),
        (KEY, identity.peer_id, [payload, signature, b""], expires_at),
        (KEY, identity.peer_id, payload, expires_at),
        (KEY, other.peer_id, value, expires_at),
        (KEY, other.peer_id, forged, expires_at),
        (KEY, identity.peer_id, forged, expires_at),
        (KEY, None, value, expires_at),
        (elsewhere, identity.peer_id, value, expires_at),
        (REGISTRY_KEY, identity.peer_id, value, expires_at),
        (elsewhere, identity.peer_id, seal_under(elsewhere, identity, expires_at), expires_at),
    ]
    for key, subkey, changed, moment in cases:
        assert open_value(key, subkey, changed, moment) is None
        assert not SignedRecords().validate(stored(key, subkey, changed, moment))
    other.close()


def seal_under(key: str, identity: Identity, expires_at: float) -> list[bytes]:
    """A record that is rightly signed for `key`, but says that it is of another model."""
    from swarm.directory import signed

    return signed._seal(key, signed.encode_record(record_of(identity.peer_id)), identity, expires_at)


@pytest.mark.parametrize("ahead", [MAX_AHEAD + 5, float("inf"), float("nan"), 1e300])
def test_what_expires_too_late_is_refused(identity: Identity, ahead: float) -> None:
    expires_at = time.time() + ahead
    value = seal_record(record_of(identity.peer_id), identity, expires_at=expires_at)
    assert not SignedRecords().validate(stored(KEY, identity.peer_id, value, expires_at))


def test_an_oversized_value_is_refused_though_it_is_signed(identity: Identity) -> None:
    from swarm.directory import signed

    expires_at = time.time() + 60
    value = signed._seal(KEY, b"x" * 100_000, identity, expires_at)
    assert not SignedRecords().validate(stored(KEY, identity.peer_id, value, expires_at))


@given(st.binary(max_size=200), st.binary(max_size=100), st.binary(max_size=200), st.floats())
def test_random_bytes_are_refused_without_an_error(key: bytes, subkey: bytes, value: bytes, expires_at: float) -> None:
    assert not SignedRecords().validate(DHTRecord(key, subkey, value, expires_at))


@given(st.none() | st.text() | st.binary() | st.lists(st.binary(), max_size=3) | st.integers(0, 2**63))
def test_any_other_value_is_refused_without_an_error(value: object) -> None:
    try:
        msgpack.packb(value)
    except UnicodeEncodeError:
        return
    assert open_value(KEY, "12D3KooW", value, 1e9) is None
