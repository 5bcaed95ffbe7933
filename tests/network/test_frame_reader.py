from __future__ import annotations

import struct
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import ProtocolError
from swarm.network.frame_reader import FIRST_BODY_BYTES, SCRATCH_BYTES, FrameReader
from swarm.wire import Message, Ping, Row, Step, encode, encode_prefix
from swarm.wire.limits import MAX_BODY_BYTES, MAX_ROWS
from tests.network.ends import SESSION, result

PRELUDE = b"\x05hello"


class Sink:
    """A reader and what came out of it."""

    def __init__(self) -> None:
        self.preludes: list[bytes] = []
        self.frames: list[tuple[Message, bytes]] = []
        self.reader = FrameReader(
            self.preludes.append, lambda message, body: self.frames.append((message, bytes(body)))
        )

    def feed(self, data: bytes, *, piece: int = 1 << 30) -> None:
        while data:
            buffer = self.reader.get_buffer()
            assert len(buffer) > 0
            count = min(len(buffer), len(data), piece)
            buffer[:count] = data[:count]
            self.reader.updated(count)
            data = data[count:]


def frame(message: Message, body: bytes = b"") -> bytes:
    header = encode(message)
    return encode_prefix(len(header), len(body)) + header + body


FRAMES = st.lists(
    st.one_of(
        st.builds(lambda nonce: (Ping(nonce), b""), st.integers(0, 2**40)),
        st.builds(
            lambda step, size: (result(step), bytes([step % 251]) * size),
            st.integers(0, 999),
            st.integers(0, 3 * SCRATCH_BYTES),
        ),
    ),
    max_size=6,
)


@given(FRAMES, st.integers(1, 2 * SCRATCH_BYTES))
def test_frames_come_out_as_they_went_in_however_the_bytes_are_cut(
    frames: list[tuple[Message, bytes]], piece: int
) -> None:
    sink = Sink()
    data = PRELUDE + b"".join(frame(*each) for each in frames)
    sink.feed(data, piece=max(piece, len(data) // 500))
    assert sink.preludes == [b"hello"] and sink.frames == frames and sink.reader.is_between_frames


def test_single_bytes_make_the_same_frames() -> None:
    sink = Sink()
    frames = [(result(1), b"abc"), (Ping(5), b""), (result(2), b"d" * 100)]
    sink.feed(PRELUDE + b"".join(frame(*each) for each in frames), piece=1)
    assert sink.frames == frames


@pytest.mark.parametrize("size", [FIRST_BODY_BYTES - 1, FIRST_BODY_BYTES, FIRST_BODY_BYTES + 1, 3 * FIRST_BODY_BYTES])
def test_a_body_that_grows_while_it_arrives_is_whole(size: int) -> None:
    sink = Sink()
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    sink.feed(PRELUDE + frame(result(1), body) + frame(Ping(1)), piece=200_000)
    assert sink.frames == [(result(1), body), (Ping(1), b"")]


def test_the_largest_header_fits_though_it_is_larger_than_the_buffer() -> None:
    rows = tuple(Row(index, index, 2**24, 2**20, 1) for index in range(MAX_ROWS))
    step = Step(SESSION, 1, 1, "float32", rows)
    assert len(encode(step)) > SCRATCH_BYTES
    sink = Sink()
    sink.feed(PRELUDE + frame(Ping(1)) + frame(step, b"x" * 10) + frame(Ping(2)), piece=5000)
    assert [message for message, _ in sink.frames] == [Ping(1), step, Ping(2)]


@given(st.binary(min_size=1, max_size=2000), st.integers(1, 700))
def test_garbage_raises_nothing_but_a_protocol_error(garbage: bytes, piece: int) -> None:
    sink = Sink()
    sink.feed(PRELUDE)
    with suppress(ProtocolError):
        sink.feed(garbage, piece=piece)


@pytest.mark.parametrize(
    "prefix", [struct.pack("<II", 0, 0), struct.pack("<II", 65537, 0), struct.pack("<II", 10, MAX_BODY_BYTES + 1)]
)
def test_lengths_over_the_limits_are_refused_before_anything_else_is_read(prefix: bytes) -> None:
    sink = Sink()
    with pytest.raises(ProtocolError, match="allowed"):
        sink.feed(PRELUDE + prefix)


def test_a_body_behind_a_message_that_has_none_is_refused() -> None:
    sink = Sink()
    with pytest.raises(ProtocolError, match="Ping with a body"):
        sink.feed(PRELUDE + frame(Ping(1), b"x"))


def test_a_body_that_is_announced_and_never_comes_takes_little_memory() -> None:
    header = encode(result(1))
    tracemalloc.start()
    sink = Sink()
    sink.feed(PRELUDE + encode_prefix(len(header), MAX_BODY_BYTES) + header + b"x" * 100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert FIRST_BODY_BYTES < peak < FIRST_BODY_BYTES + 500_000


def test_a_prelude_over_its_limit_is_refused() -> None:
    with pytest.raises(ProtocolError, match="prelude"):
        Sink().feed(b"\xff\xff\xff\xff\x7f")


def test_a_stopped_reader_delivers_nothing_more() -> None:
    sink = Sink()
    sink.feed(PRELUDE + frame(Ping(1)))
    sink.reader.stop()
    sink.feed(frame(Ping(2)))
    assert sink.frames == [(Ping(1), b"")]
