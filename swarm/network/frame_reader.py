"""Bytes in, messages out: no socket, no clock.

A frame's prefix and header are gathered in one small buffer that is used again and again; a body
that does not fit there is received straight into its own bytearray. That grows with what really
came: a peer that announces 64 MiB and sends nothing holds 4 MiB of ours at most.

In front of the first frame may stand a prelude, bytes behind their length as a varint: what our own libp2p
daemon tells us of the stream, or the proof with which a direct connection begins.
"""

from __future__ import annotations

from collections.abc import Callable

from swarm.errors import ProtocolError
from swarm.wire import PREFIX_BYTES, Message, decode, parse_prefix

SCRATCH_BYTES = 32 * 1024
"""Holds a decode step of hidden size 8192 in bf16 with its header, so that one read takes it whole."""

FIRST_BODY_BYTES = 4 * 1024 * 1024
"""What a body may take before any of it arrived: a prefill chunk of 256 tokens, 8192 wide in bf16."""

_MAX_PRELUDE_BYTES = 16 * 1024


def with_length(prelude: bytes) -> bytes:
    """Return a prelude behind its length as a varint, as it travels."""
    return varint(len(prelude)) + prelude


def varint(value: int) -> bytes:
    """Return a number of 0 or more as protobuf writes it: seven bits a byte, the lowest first."""
    head = bytearray()
    while value >= 0x80:
        head.append(value & 0x7F | 0x80)
        value >>= 7
    head.append(value)
    return bytes(head)


class FrameReader:
    """Turns received bytes into frames.

    Args:
        on_prelude: Called once with what stands before the first frame; None if nothing does.
        on_frame: Called with each message and its body.
    """

    def __init__(
        self, on_prelude: Callable[[bytes], None] | None, on_frame: Callable[[Message, bytearray], None]
    ) -> None:
        self._on_prelude = on_prelude
        self._on_frame = on_frame
        self._is_stopped = False
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._start = self._end = 0
        # Set while a body is received directly:
        self._message: Message | None = None
        self._body = bytearray()
        self._body_view = memoryview(b"")
        self._body_bytes = self._filled = 0

    @property
    def is_between_frames(self) -> bool:
        """Whether no part of an unfinished frame is held."""
        return self._message is None and self._start == self._end

    def stop(self) -> None:
        """Deliver nothing any more; may be called from within the callbacks."""
        self._is_stopped = True

    def get_buffer(self) -> memoryview:
        """Return where the next bytes shall be written; never empty."""
        if self._message is not None:
            return self._body_view[self._filled :]
        return self._scratch[self._end :]

    def updated(self, count: int) -> None:
        """Note that `count` bytes were written to the buffer; deliver what is complete.

        Raises:
            ProtocolError: Lengths over the limit, a bad header, or a body where none belongs.
        """
        if self._is_stopped:
            return
        if self._message is not None:
            self._filled += count
            if self._filled == self._body_bytes:
                self._deliver_direct()
            elif self._filled == len(self._body):
                self._grow_body(min(self._body_bytes, 2 * len(self._body)))
            return
        self._end += count
        if self._on_prelude is None or self._take_prelude(self._on_prelude):
            while not self._is_stopped and self._take_frame():
                pass
        self._compact()

    def _take_prelude(self, on_prelude: Callable[[bytes], None]) -> bool:
        length = shift = 0
        for index in range(self._start, self._end):
            byte = self._scratch[index]
            length |= (byte & 0x7F) << shift
            shift += 7
            if length > _MAX_PRELUDE_BYTES or shift > 28:
                raise ProtocolError(f"prelude of {length} bytes; at most {_MAX_PRELUDE_BYTES} are allowed")
            if byte < 0x80:
                begin, end = index + 1, index + 1 + length
                if end > self._end:
                    return False
                self._start = end
                self._on_prelude = None
                on_prelude(bytes(self._scratch[begin:end]))
                return True
        return False

    def _take_frame(self) -> bool:
        begin = self._start + PREFIX_BYTES
        if begin > self._end:
            return False
        header_bytes, body_bytes = parse_prefix(self._scratch[self._start : begin])
        split = begin + header_bytes
        if split > self._end:
            self._ensure_room(PREFIX_BYTES + header_bytes)
            return False
        message = decode(self._scratch[begin:split])
        if body_bytes and not message.carries_body:
            raise ProtocolError(f"{type(message).__name__} with a body of {body_bytes} bytes; it has none")
        if split + body_bytes > self._end:
            self._begin_body(message, body_bytes, self._scratch[split : self._end])
            return False
        self._start = split + body_bytes
        self._on_frame(message, bytearray(self._scratch[split : self._start]))
        return True

    def _begin_body(self, message: Message, body_bytes: int, arrived: memoryview) -> None:
        self._message, self._body_bytes, self._filled = message, body_bytes, len(arrived)
        self._body = bytearray(min(body_bytes, FIRST_BODY_BYTES))
        self._body_view = memoryview(self._body)
        self._body_view[: len(arrived)] = arrived
        self._start = self._end = 0

    def _grow_body(self, size: int) -> None:
        # The transport may still hold a view of the old one, which therefore cannot grow in place.
        grown = bytearray(size)
        grown[: self._filled] = self._body_view
        self._body, self._body_view = grown, memoryview(grown)

    def _deliver_direct(self) -> None:
        message, body = self._message, self._body
        assert message is not None
        self._message, self._body, self._body_view = None, bytearray(), memoryview(b"")
        self._on_frame(message, body)

    def _ensure_room(self, size: int) -> None:
        if size > len(self._scratch):
            roomier = memoryview(bytearray(size))
            roomier[: self._end - self._start] = self._scratch[self._start : self._end]
            self._scratch, self._start, self._end = roomier, 0, self._end - self._start

    def _compact(self) -> None:
        rest = self._end - self._start
        if self._start:
            self._scratch[:rest] = self._scratch[self._start : self._end]
            self._start, self._end = 0, rest
