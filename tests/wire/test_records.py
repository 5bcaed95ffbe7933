from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import ProtocolError
from swarm.types import PeerId, Reach, ServerRecord, ServerState, Span
from swarm.wire.records import MAX_RECORD_BYTES, decode_record, encode_record

RECORD = ServerRecord(
    peer=PeerId("12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL"),
    model="smollm2-135m",
    fingerprint="ab" * 16,
    num_blocks=30,
    span=Span(10, 13),
    digests=("a" * 16, "b" * 16, "c" * 16),
    state=ServerState.ONLINE,
    decode_per_s=123.5,
    prefill_per_s=4567.0,
    free_pages=1000,
    load=3,
    dtype="bfloat16",
    quant="int8",
    addrs=("/ip4/203.0.113.7/tcp/31337/p2p/12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL",),
    public_name="Zoë's laptop",
    version="0.1.0",
    expires_at=1234.5,
    kernel="avx2",
    reach=Reach.RELAYED,
    since=1000.5,
    round_trips=((PeerId("12D3KooWSomebody"), 0.08),),
    next_span=Span(0, 3),
)
NUM_FIELDS, NUM_REQUIRED = 23, 18


def values_of(record: ServerRecord) -> list[Any]:
    values: list[Any] = msgpack.unpackb(encode_record(record))
    return values


@pytest.mark.parametrize("state", ServerState)
def test_a_record_comes_back_as_it_went_but_with_the_expiry_kept_beside(state: ServerState) -> None:
    record = replace(RECORD, state=state)
    assert decode_record(encode_record(record), expires_at=99.0) == replace(record, expires_at=99.0)


def test_a_record_of_a_server_that_stays_comes_back_without_a_next_span() -> None:
    record = replace(RECORD, next_span=None)
    assert decode_record(encode_record(record), expires_at=1234.5) == record


def test_surplus_fields_of_a_newer_server_are_ignored() -> None:
    packed = msgpack.packb([*values_of(RECORD), "new"])
    assert decode_record(packed, expires_at=1234.5) == RECORD


def test_a_record_of_an_older_server_has_the_defaults_of_later_fields() -> None:
    packed = msgpack.packb(values_of(RECORD)[:NUM_REQUIRED])
    assert decode_record(packed, expires_at=1234.5) == replace(
        RECORD, kernel="", reach=Reach.UNKNOWN, since=0.0, round_trips=(), next_span=None
    )


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, 2),
        (1, 5),
        (2, "x" * 257),
        (4, 0),
        (5, 13),
        (6, 31),
        (6, 14),
        (7, ["a"]),
        (8, "asleep"),
        (9, float("nan")),
        (9, -1.0),
        (10, float("inf")),
        (11, -1),
        (15, ["/ip4/1.2.3.4"] * 17),
        (16, "\x1b]0;owned\x07"),
        (18, "x" * 33),
        (19, "perhaps"),
        (20, -1.0),
        (21, [["a"]]),
        (21, [["a", -0.1]]),
        (21, [["a", 0.1]] * 17),
        (21, ["ab"]),
        (22, [3]),
        (22, [3, 3]),
        (22, [28, 31]),
        (22, [-1, 3]),
        (22, "0:3"),
    ],
)
def test_a_record_with_one_field_out_of_range_is_refused(position: int, value: object) -> None:
    values = values_of(RECORD)
    values[position] = value
    with pytest.raises(ProtocolError):
        decode_record(msgpack.packb(values), expires_at=0.0)


def test_a_record_with_a_missing_field_or_over_the_limit_is_refused() -> None:
    values = values_of(RECORD)
    assert len(values) == NUM_FIELDS
    with pytest.raises(ProtocolError, match="missing"):
        decode_record(msgpack.packb(values[: NUM_REQUIRED - 1]), expires_at=0.0)
    with pytest.raises(ProtocolError, match=str(MAX_RECORD_BYTES)):
        decode_record(b"\x00" * (MAX_RECORD_BYTES + 1), expires_at=0.0)


@given(st.binary(max_size=400))
def test_random_bytes_raise_nothing_but_a_protocol_error(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_record(garbage, expires_at=0.0)


@given(st.integers(1, NUM_FIELDS - 1), st.none() | st.integers() | st.floats() | st.text() | st.lists(st.integers()))
def test_a_field_of_any_other_kind_raises_nothing_but_a_protocol_error(position: int, value: object) -> None:
    values = values_of(RECORD)
    values[position] = value
    try:
        packed = msgpack.packb(values)
    except (OverflowError, UnicodeEncodeError):
        return
    with suppress(ProtocolError):
        decode_record(packed, expires_at=0.0)
