"""What travels inside of messages: a sequence's part in a step, and what a hop spent on it."""

from __future__ import annotations

import struct
from typing import NamedTuple

_PACKED_TIMING = struct.Struct("<III")
TIMING_BYTES = _PACKED_TIMING.size

TRY_BITS = 8
"""The lowest bits of a step's number count its tries: hops make the forks of a step once, however often it is tried."""


class Row(NamedTuple):
    """One sequence's part in a step.

    Attributes:
        sequence: Number of the sequence within the session.
        source: Whose slots it starts from: itself, or another (a fork; all forks of a step read
            the state before the step).
        position: Slots kept from `source`; everything from here on is dropped, then the row's
            tokens are appended. Rolling back is therefore implicit.
        length: Tokens of this row in the body; 0 only forks or rolls back.
        keep: How many of the last tokens' outputs the client wants back.
    """

    sequence: int
    source: int
    position: int
    length: int
    keep: int


class Held(NamedTuple):
    """How many tokens of a sequence are meant."""

    sequence: int
    tokens: int


class Timing(NamedTuple):
    """What one hop spent on a step, in microseconds.

    Attributes:
        queue: From the frame's arrival until its compute began.
        compute: In the blocks.
        total: From the frame's arrival until the output was handed to the next stream.
    """

    queue: int
    compute: int
    total: int

    def packed(self) -> bytes:
        """Return the 12 bytes that a hop adds to `times`; what is beyond 71 minutes is cut off."""
        return _PACKED_TIMING.pack(*(min(max(0, value), 2**32 - 1) for value in self))


def unpack_timings(times: bytes) -> tuple[Timing, ...]:
    """Return what each hop spent, first hop first; only the client asks, so the hops need not."""
    return tuple(Timing(*values) for values in _PACKED_TIMING.iter_unpack(times))
