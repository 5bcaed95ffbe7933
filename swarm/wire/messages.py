"""Messages: each declared once, with a number, and a type and range for each field.

A header is `[number, field, field, ...]` (`swarm.wire.encoding`). What is said beside all sessions stands in
`swarm.wire.meeting`. Session ids are secret between a client and its
hops: a Step is accepted from whoever knows the id, be it the client or the hop before.

A conversation (client C, hops 1 and 2): C sends Open to both, each says Opened. C sends Step to 1
with route [2]; 1 runs it and sends it on to 2 with route []; 2 runs it and sends Result to C, on
the channel on which C opened the session. A hop that fails sends Error to C on C's own channel.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.wire.fields import blob, blob_of, counts_of, integer, many, number, one_of, text
from swarm.wire.limits import (
    HASH_BYTES,
    MAX_ADDRS,
    MAX_BLOCKS,
    MAX_HASHES,
    MAX_HOPS,
    MAX_POSITION,
    MAX_PRIORITY,
    MAX_ROWS,
    MAX_STATS,
    MAX_TEXT,
    SESSION_BYTES,
)
from swarm.wire.meeting import DialBack, DialedBack, Hello, Ping, Pong, Proof
from swarm.wire.message import Message, declared
from swarm.wire.rows import TIMING_BYTES, Held, Row

CODECS = ("float32", "bfloat16", "float16", "int8")
"""How a body holds activations; see `swarm.wire.codecs`."""

NO_SESSION = bytes(SESSION_BYTES)
"""In an Error: about the whole stream."""

NO_LINEAGE = bytes(HASH_BYTES)
"""In an Open: no pages of this session are to be found again."""

_COUNT = integer(0, 2**63 - 1)
_SESSION = blob(SESSION_BYTES)
_PEER = text(128)


_ROW = counts_of(Row, MAX_ROWS - 1, MAX_ROWS - 1, MAX_POSITION, MAX_POSITION, MAX_POSITION)
_HELD = counts_of(Held, MAX_ROWS - 1, MAX_POSITION)
_TIMES = blob_of(TIMING_BYTES, MAX_HOPS)
_HASHES = blob_of(HASH_BYTES, MAX_HASHES)


@dataclass(frozen=True, slots=True)
class Open(Message):
    """Open a session through blocks [start, end) of the receiver.

    `fingerprint` must be the served model's; `next_peer` and `next_addrs` (empty at the last hop)
    let the server dial its successor before the first step arrives. `num_hops` is the whole route's, which tells in
    how many batches sessions had better travel. `priority`: 0 is served first among the sessions of one client.
    `lineage` stands for all that decides about the numbers that arrive here (the hops before, the codec): pages are
    found again only under the same one.
    """

    wire_number = 4
    session: bytes = declared(_SESSION)
    model: str = declared(text(256))
    fingerprint: str = declared(text(64))
    start: int = declared(integer(0, MAX_BLOCKS - 1))
    end: int = declared(integer(1, MAX_BLOCKS))
    codec: str = declared(one_of(*CODECS))
    next_peer: str = declared(_PEER, "")
    next_addrs: tuple[str, ...] = declared(many(text(MAX_TEXT), MAX_ADDRS), ())
    num_hops: int = declared(integer(1, MAX_HOPS), 1)
    priority: int = declared(integer(0, MAX_PRIORITY), 0)
    lineage: bytes = declared(blob(HASH_BYTES), NO_LINEAGE)


@dataclass(frozen=True, slots=True)
class Opened(Message):
    """The session is open; `free_pages` is what it could take now."""

    wire_number = 5
    session: bytes = declared(_SESSION)
    free_pages: int = declared(_COUNT, 0)


@dataclass(frozen=True, slots=True)
class Step(Message):
    """Run the rows' tokens through the session's blocks and pass the output on.

    Body: the rows' tokens one after another, (sum of lengths, D), in `codec`. `route` holds the
    peers still to come; `times` grows by one packed `Timing` a hop. Steps of an `epoch` older than the
    newest one seen are dropped without an answer: a roll-back made them stale. `marks`: for each page that a row of
    the step fills, row by row, the hash under which it is to be found again; all of them or none.
    """

    wire_number = 6
    carries_body = True
    session: bytes = declared(_SESSION)
    step: int = declared(_COUNT)
    epoch: int = declared(_COUNT)
    codec: str = declared(one_of(*CODECS))
    rows: tuple[Row, ...] = declared(many(_ROW, MAX_ROWS, min_items=1))
    route: tuple[str, ...] = declared(many(_PEER, MAX_HOPS), ())
    marks: bytes = declared(_HASHES, b"")
    times: bytes = declared(_TIMES, b"")


@dataclass(frozen=True, slots=True)
class Result(Message):
    """The last hop's answer. Body: the kept tokens of all rows one after another, (tokens, D)."""

    wire_number = 7
    carries_body = True
    session: bytes = declared(_SESSION)
    step: int = declared(_COUNT)
    codec: str = declared(one_of(*CODECS))
    tokens: int = declared(integer(0, MAX_POSITION))
    times: bytes = declared(_TIMES, b"")


@dataclass(frozen=True, slots=True)
class Cancel(Message):
    """Forget the steps of this session with an epoch below `epoch` that have not run yet."""

    wire_number = 8
    session: bytes = declared(_SESSION)
    epoch: int = declared(_COUNT)


@dataclass(frozen=True, slots=True)
class Close(Message):
    """Forget the session and free its pages; no answer."""

    wire_number = 9
    session: bytes = declared(_SESSION)


@dataclass(frozen=True, slots=True)
class Error(Message):
    """Something went wrong with a step, a session (`step` 0; steps count from 1), or (`NO_SESSION`) the whole stream.

    `code` names an error class of `swarm.errors`; `retry_after` counts only for Busy, in seconds.
    """

    wire_number = 10
    session: bytes = declared(_SESSION)
    step: int = declared(_COUNT)
    code: int = declared(integer(0, 65535))
    text: str = declared(text(MAX_TEXT))
    retry_after: float = declared(number(0, 86400), 0.0)


@dataclass(frozen=True, slots=True)
class Find(Message):
    """Let `sequence` begin with the pages held under these hashes of its first full pages, as many as there are."""

    wire_number = 11
    session: bytes = declared(_SESSION)
    sequence: int = declared(integer(0, MAX_ROWS - 1))
    hashes: bytes = declared(_HASHES)


@dataclass(frozen=True, slots=True)
class Found(Message):
    """The answer to Find: how many tokens the sequence holds now."""

    wire_number = 12
    session: bytes = declared(_SESSION)
    sequence: int = declared(integer(0, MAX_ROWS - 1))
    tokens: int = declared(integer(0, MAX_POSITION))


@dataclass(frozen=True, slots=True)
class AskStats(Message):
    """How are you? A server answers with Stats."""

    wire_number = 13


@dataclass(frozen=True, slots=True)
class Stats(Message):
    """A server's `EngineStats`, its fields in order."""

    wire_number = 14
    values: tuple[float, ...] = declared(many(number(0, 1e18), MAX_STATS))


@dataclass(frozen=True, slots=True)
class Replay(Message):
    """Send on what you sent before: the hop behind you is another one from now on, and begins with nothing.

    From the outbox of the session, for each sequence its first tokens, as Steps that keep nothing,
    to `next_peer` and along `route`. They are numbered from `first` on, the last of them is `last`, whatever lies
    between. `before`: the state wanted is that before this step, should its forks be made already. Steps of an older
    epoch are stale. A hop whose outbox does not hold all of this says SessionLost, and has sent nothing.
    """

    wire_number = 15
    session: bytes = declared(_SESSION)
    epoch: int = declared(_COUNT)
    before: int = declared(_COUNT)
    first: int = declared(_COUNT)
    last: int = declared(_COUNT)
    next_peer: str = declared(_PEER)
    next_addrs: tuple[str, ...] = declared(many(text(MAX_TEXT), MAX_ADDRS))
    route: tuple[str, ...] = declared(many(_PEER, MAX_HOPS))
    rows: tuple[Held, ...] = declared(many(_HELD, MAX_ROWS))
    chunk_tokens: int = declared(integer(1, MAX_POSITION))


@dataclass(frozen=True, slots=True)
class Leaving(Message):
    """From a server: move this session elsewhere soon, for we leave or change our blocks. Until then it goes on."""

    wire_number = 16
    session: bytes = declared(_SESSION)


KINDS: tuple[type[Message], ...] = (
    Hello,
    Ping,
    Pong,
    Open,
    Opened,
    Step,
    Result,
    Cancel,
    Close,
    Error,
    Find,
    Found,
    AskStats,
    Stats,
    Replay,
    Leaving,
    DialBack,
    DialedBack,
    Proof,
)
