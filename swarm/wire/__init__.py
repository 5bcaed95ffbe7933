"""What travels between peers: frames (bytes), messages (typed), records, tensor codecs; no I/O.

The whole format: a frame is two little-endian u32 (header length, body length), the header, the
body. The header is a msgpack array `[number, field, field, ...]` of one declared message; the
body, where a message has one, is the rows' activations in the message's codec.
"""

from swarm.wire.encoding import Prepared, decode, encode
from swarm.wire.frames import PREFIX_BYTES, encode_prefix, parse_prefix
from swarm.wire.meeting import DialBack, DialedBack, Hello, Ping, Pong, Proof
from swarm.wire.message import Message
from swarm.wire.messages import (
    AskStats,
    Cancel,
    Close,
    Error,
    Find,
    Found,
    Leaving,
    Open,
    Opened,
    Replay,
    Result,
    Stats,
    Step,
)
from swarm.wire.rows import Held, Row, Timing, unpack_timings

__all__ = [
    "PREFIX_BYTES",
    "AskStats",
    "Cancel",
    "Close",
    "DialBack",
    "DialedBack",
    "Error",
    "Find",
    "Found",
    "Held",
    "Hello",
    "Leaving",
    "Message",
    "Open",
    "Opened",
    "Ping",
    "Pong",
    "Prepared",
    "Proof",
    "Replay",
    "Result",
    "Row",
    "Stats",
    "Step",
    "Timing",
    "decode",
    "encode",
    "encode_prefix",
    "parse_prefix",
    "unpack_timings",
]
