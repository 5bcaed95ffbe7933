from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import ProtocolError
from swarm.wire import PREFIX_BYTES, encode_prefix, parse_prefix
from swarm.wire.limits import MAX_BODY_BYTES, MAX_HEADER_BYTES


@given(st.integers(1, MAX_HEADER_BYTES), st.integers(0, MAX_BODY_BYTES))
def test_a_prefix_says_both_lengths_in_eight_little_endian_bytes(header_bytes: int, body_bytes: int) -> None:
    prefix = encode_prefix(header_bytes, body_bytes)
    assert prefix == struct.pack("<II", header_bytes, body_bytes) and len(prefix) == PREFIX_BYTES
    assert parse_prefix(prefix) == (header_bytes, body_bytes)


@pytest.mark.parametrize(
    ("header_bytes", "body_bytes"), [(0, 0), (MAX_HEADER_BYTES + 1, 0), (1, MAX_BODY_BYTES + 1), (2**32 - 1, 2**32 - 1)]
)
def test_lengths_over_the_limits_are_refused_on_both_sides(header_bytes: int, body_bytes: int) -> None:
    with pytest.raises(ProtocolError, match="allowed"):
        parse_prefix(struct.pack("<II", header_bytes, body_bytes))
    with pytest.raises(ProtocolError, match="allowed"):
        encode_prefix(header_bytes, body_bytes)
