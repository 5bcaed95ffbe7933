from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import Busy, HopFailed, ProtocolError, from_code
from swarm.wire import (
    AskStats,
    Cancel,
    Close,
    DialBack,
    DialedBack,
    Error,
    Find,
    Found,
    Held,
    Hello,
    Leaving,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
    Prepared,
    Replay,
    Result,
    Row,
    Stats,
    Step,
    Timing,
    decode,
    encode,
    unpack_timings,
)
from swarm.wire.encoding import error_of
from swarm.wire.limits import (
    HASH_BYTES,
    MAX_BLOCKS,
    MAX_HASHES,
    MAX_HEADER_BYTES,
    MAX_HOPS,
    MAX_POSITION,
    MAX_ROWS,
    MAX_TEXT,
)
from swarm.wire.messages import CODECS, NO_SESSION

COUNT = st.integers(0, 2**63 - 1)
SESSION = st.binary(min_size=16, max_size=16)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
ROW = st.builds(
    Row,
    st.integers(0, MAX_ROWS - 1),
    st.integers(0, MAX_ROWS - 1),
    st.integers(0, MAX_POSITION),
    st.integers(0, MAX_POSITION),
    st.integers(0, MAX_POSITION),
)
TIMING = st.builds(Timing, *[st.integers(0, 2**32 - 1)] * 3)
TIMES = st.lists(TIMING, max_size=5).map(lambda timings: b"".join(timing.packed() for timing in timings))
HASHES = st.lists(st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES), max_size=3).map(b"".join)
CODEC = st.sampled_from(CODECS)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Hello, st.integers(1, 65535), st.integers(1, 65535), PRINTABLE, st.lists(PRINTABLE, max_size=3).map(tuple)
    ),
    st.builds(Ping, COUNT),
    st.builds(Pong, COUNT),
    st.builds(
        Open,
        SESSION,
        PRINTABLE,
        PRINTABLE,
        st.integers(0, MAX_BLOCKS - 1),
        st.integers(1, MAX_BLOCKS),
        CODEC,
        PRINTABLE,
        st.lists(PRINTABLE, max_size=3).map(tuple),
        st.integers(1, MAX_HOPS),
        st.integers(0, 9),
        SESSION,
    ),
    st.builds(Opened, SESSION, COUNT),
    st.builds(
        Step,
        SESSION,
        COUNT,
        COUNT,
        CODEC,
        st.lists(ROW, min_size=1, max_size=5).map(tuple),
        st.lists(PRINTABLE, max_size=3).map(tuple),
        HASHES,
        TIMES,
    ),
    st.builds(Result, SESSION, COUNT, CODEC, st.integers(0, MAX_POSITION), TIMES),
    st.builds(Cancel, SESSION, COUNT),
    st.builds(Close, SESSION),
    st.builds(Find, SESSION, st.integers(0, MAX_ROWS - 1), HASHES),
    st.builds(Found, SESSION, st.integers(0, MAX_ROWS - 1), st.integers(0, MAX_POSITION)),
    st.just(AskStats()),
    st.builds(Stats, st.lists(st.floats(0, 1e18), max_size=5).map(tuple)),
    st.builds(
        Replay,
        SESSION,
        COUNT,
        COUNT,
        COUNT,
        COUNT,
        PRINTABLE,
        st.lists(PRINTABLE, max_size=3).map(tuple),
        st.lists(PRINTABLE, max_size=3).map(tuple),
        st.lists(st.builds(Held, st.integers(0, MAX_ROWS - 1), st.integers(0, MAX_POSITION)), max_size=5).map(tuple),
        st.integers(1, MAX_POSITION),
    ),
    st.builds(Leaving, SESSION),
    st.builds(DialBack, COUNT, st.lists(PRINTABLE, max_size=3).map(tuple)),
    st.builds(DialedBack, COUNT, st.lists(PRINTABLE, max_size=3).map(tuple), PRINTABLE),
    st.builds(Error, SESSION, COUNT, st.integers(0, 65535), PRINTABLE, st.floats(0, 86400)),
)
STEP = Step(b"s" * 16, 1, 0, "float32", (Row(0, 0, 0, 1, 1),))


def header(number: object, *fields: object) -> bytes:
    packed: bytes = msgpack.packb([number, *fields])
    return packed


def fields_of(message: Message) -> list[Any]:
    values: list[Any] = msgpack.unpackb(encode(message))
    return values


def refusal(attempt: Callable[[], object]) -> ProtocolError | None:
    try:
        attempt()
    except ProtocolError as error:
        return error
    return None


@given(MESSAGES)
def test_each_message_comes_back_as_it_went(message: Message) -> None:
    assert decode(encode(message)) == message


@given(MESSAGES)
def test_surplus_fields_of_a_newer_peer_are_ignored(message: Message) -> None:
    assert decode(header(*fields_of(message), {"new": 1}, [2])) == message


def test_missing_fields_of_an_older_peer_take_their_defaults() -> None:
    assert decode(header(1, 1, 1, "old")) == Hello(1, 1, "old", ())
    assert decode(header(7, b"s" * 16, 5, "int8", 3)) == Result(b"s" * 16, 5, "int8", 3, b"")


@given(st.lists(TIMING, max_size=5))
def test_timings_survive_being_packed(timings: list[Timing]) -> None:
    assert unpack_timings(b"".join(timing.packed() for timing in timings)) == tuple(timings)


def test_a_timing_out_of_range_is_cut_off() -> None:
    assert unpack_timings(Timing(-1, 2**40, 7).packed()) == (Timing(0, 2**32 - 1, 7),)


@pytest.mark.parametrize("hops", [0, 1, 200])
def test_a_message_prepared_before_its_times_are_known_is_the_same_one(hops: int) -> None:
    times = Timing(1, 2, 3).packed() * hops
    rows = (Row(0, 0, 4, 1, 1),)
    for whole in (
        Step(b"s" * 16, 5, 6, "bfloat16", rows, ("next",), b"h" * 16, times),
        Result(b"s" * 16, 5, "bfloat16", 1, times),
    ):
        early = replace(whole, times=b"")
        assert encode(Prepared.of(early).with_times(times)) == encode(whole)


def test_the_largest_step_fits_into_a_header() -> None:
    rows = tuple(Row(MAX_ROWS - 1, MAX_ROWS - 1, MAX_POSITION, MAX_POSITION, 1) for _ in range(MAX_ROWS))
    route, times = ("12D3KooW" + "x" * 44,) * 8, Timing(9**9, 9**9, 9**9).packed() * 8
    step = Step(b"s" * 16, 2**62, 2**62, "bfloat16", rows, route, b"h" * HASH_BYTES * MAX_HASHES, times)
    assert len(encode(step)) <= MAX_HEADER_BYTES and decode(encode(step)) == step


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (1, b"short"),
        (1, "s" * 16),
        (2, -1),
        (2, 2**63),
        (2, True),
        (2, 1.0),
        (3, None),
        (4, "float64"),
        (4, b"float32"),
        (5, []),
        (5, {}),
        (5, [[0, 0, 0, 1]]),
        (5, [[0, 0, 0, 1, -1]]),
        (5, [[MAX_ROWS, 0, 0, 1, 1]]),
        (5, [[0, 0, MAX_POSITION + 1, 1, 1]]),
        (5, [[0, 0, 0, 1, 1]] * (MAX_ROWS + 1)),
        (6, ["x" * 129]),
        (6, ["\x1b[2J"]),
        (6, ["a"] * (MAX_HOPS + 1)),
        (7, [b"x" * 16]),
        (7, b"x" * 17),
        (7, b"x" * 16 * (MAX_HASHES + 1)),
        (8, [[1, 2, 3]]),
        (8, b"x" * 13),
        (8, b"x" * 12 * (MAX_HOPS + 1)),
    ],
)
def test_a_step_with_one_field_out_of_range_is_refused(position: int, value: object) -> None:
    values = [*fields_of(STEP)]
    values[position] = value
    with pytest.raises(ProtocolError, match="Step"):
        decode(header(*values))


@pytest.mark.parametrize(
    "garbage", [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 60000, b"\x80", b"\x90", b"\x91\xc0"]
)
def test_a_header_that_is_no_message_is_refused(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(garbage)


@pytest.mark.parametrize("number", [0, 15, 255, -1, "Step", None, True, 6.0])
def test_an_unknown_message_number_is_refused(number: object) -> None:
    with pytest.raises(ProtocolError):
        decode(header(number, b"s" * 16, 1, 0, "float32", [[0, 0, 0, 1, 1]]))


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_a_protocol_error(garbage: bytes) -> None:
    refused = refusal(lambda: decode(garbage))
    assert refused is None or len(str(refused)) < 300


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.integers(0, 16), st.lists(ANYTHING, max_size=9))
def test_well_formed_nonsense_raises_nothing_but_a_protocol_error(number: int, values: list[object]) -> None:
    refused = refusal(lambda: decode(header(number, *values)))
    assert refused is None or len(str(refused)) < 300


def test_a_header_that_announces_more_than_it_holds_takes_no_memory() -> None:
    bombs = [b"\xdd\x7f\xff\xff\xff", b"\xdf\x7f\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\xdb\x7f\xff\xff\xff"]
    tracemalloc.start()
    for bomb in bombs:
        with pytest.raises(ProtocolError):
            decode(b"\x92\x01" + bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_an_error_of_ours_travels_with_code_and_retry_time() -> None:
    told = error_of(Busy("no pages", retry_after=2.5), session=b"s" * 16, step=7)
    assert decode(encode(told)) == Error(b"s" * 16, 7, Busy.code, "no pages", 2.5)
    again = from_code(told.code, told.text, retry_after=told.retry_after)
    assert isinstance(again, Busy) and again.retry_after == 2.5


def test_an_unexpected_error_tells_a_peer_its_class_only() -> None:
    told = error_of(KeyError("/home/me/secret"))
    assert told.session == NO_SESSION and told.code == 0 and told.text == "internal error (KeyError)"


def test_an_error_text_is_made_printable_and_cut() -> None:
    told = error_of(HopFailed("line\nline\x1b" + "x" * 5000))
    assert len(told.text) == MAX_TEXT and told.text.startswith("line line x")
    assert decode(encode(told)) == told
