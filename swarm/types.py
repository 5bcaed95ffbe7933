"""The words everyone speaks: plain values without behaviour of their own.

A record is what a server announces of itself; a view is a snapshot of all live records of one
model. Both are pure values, so that routing and placement can be tested, and simulated, without
a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import NewType

PeerId = NewType("PeerId", str)
"""Base58 peer id, as it stands after /p2p/ in a multiaddr."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Blocks [start, end), 0-based."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"span {self.start}:{self.end} is empty or negative")

    def __len__(self) -> int:
        return self.end - self.start

    def __contains__(self, block: object) -> bool:
        return isinstance(block, int) and self.start <= block < self.end

    def __str__(self) -> str:
        return f"{self.start}:{self.end}"

    def covers(self, other: Span) -> bool:
        """Whether every block of `other` is also ours."""
        return self.start <= other.start and other.end <= self.end


class ServerState(Enum):
    """What a server says of itself; only ONLINE ones take new sessions."""

    JOINING = "joining"
    ONLINE = "online"
    DRAINING = "draining"
    OFFLINE = "offline"


class Reach(Enum):
    """How others get to a server, as peers that it asked have found; an UNREACHABLE one is never routed."""

    UNKNOWN = "unknown"
    DIRECT = "direct"
    RELAYED = "relayed"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRecord:
    """One server's announcement for one model.

    Attributes:
        peer: Who serves; the record is signed with this peer's own key.
        model: The model's name in the swarm.
        fingerprint: Hex digest of config and checkpoint, without regard to quantisation.
        num_blocks: Blocks of the whole model.
        span: The blocks served.
        digests: Hex digest of each block of `span`, in order: two servers that overlap and
            disagree hold different checkpoints. Empty ones are of blocks that are not loaded yet.
        state: See `ServerState`.
        decode_per_s: Tokens per second through ONE block when decoding, measured.
        prefill_per_s: Tokens per second through ONE block when prefilling, measured.
        free_pages: KV pages of 16 slots that new sessions could take.
        load: Steps waiting or running.
        dtype: Numerics of the activations: "float32", "bfloat16", "float16".
        quant: Weight format: "none", "int8", "int4".
        kernel: What multiplies, which decides about last bits: "avx2", "torch"; empty if not told.
        reach: See `Reach`.
        since: Unix time since when it holds `span`, joining included, or, where `next_span` is told, since when it
            wants that: who came last gives way first.
        round_trips: Seconds there and back to servers that may come next in a route, as it measured them.
        addrs: Dialable multiaddrs, each with /p2p/ID.
        public_name: What its owner calls it; empty if not told.
        version: Version of the software.
        expires_at: Unix time after which the record counts for nothing.
        next_span: The blocks that it is about to serve instead of `span`; None while it stays.
    """

    peer: PeerId
    model: str
    fingerprint: str
    num_blocks: int
    span: Span
    digests: tuple[str, ...]
    state: ServerState
    decode_per_s: float
    prefill_per_s: float
    free_pages: int
    load: int
    dtype: str
    quant: str
    addrs: tuple[str, ...]
    public_name: str
    version: str
    expires_at: float
    kernel: str = ""
    reach: Reach = Reach.UNKNOWN
    since: float = 0.0
    round_trips: tuple[tuple[PeerId, float], ...] = ()
    next_span: Span | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A snapshot of all live records of one model, taken at Unix time `taken_at`."""

    model: str
    records: tuple[ServerRecord, ...]
    taken_at: float


@dataclass(frozen=True, slots=True)
class Hop:
    """Blocks [start, end) of one peer, as one route uses them."""

    peer: PeerId
    start: int
    end: int

    @property
    def span(self) -> Span:
        """The blocks as a `Span`."""
        return Span(self.start, self.end)

    def __str__(self) -> str:
        return f"{self.start}:{self.end}@{self.peer[-6:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One model that the swarm serves, as the directory lists it.

    Attributes:
        name: The model's name in the swarm.
        fingerprint: Hex digest of config and checkpoint; one name with two of them is two entries.
        num_blocks: Blocks of the whole model.
        num_servers: Live records seen when the list was made.
    """

    name: str
    fingerprint: str
    num_blocks: int
    num_servers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What a server's engine does; rates and percentiles are of the last seconds. New fields go to the end.

    Attributes:
        sessions: Open sessions.
        running: Steps in the batch that is being computed, prefills that were begun included.
        waiting: Steps that have not begun.
        pages: KV pages of the pool.
        pages_used: Held by sessions.
        pages_cached: Held only to be found again; given up when sessions need them.
        sequences: Sequences of all sessions.
        prefill_per_s: Prompt tokens per second.
        decode_per_s: Tokens per second of steps of few tokens.
        batch_rows: Mean number of sequences in a decoding batch.
        batch_rows_max: The largest.
        queue_p50: Seconds from a step's arrival to its beginning, median.
        queue_p95: 95th percentile.
        queue_p99: 99th percentile.
        num_busy: Steps that were answered with `Busy`, since the start.
        prefix_wanted: Tokens of prompts that were looked up, since the start.
        prefix_found: Of them, those that needed not be computed.
        bytes_waiting: Activations of the steps that wait.
    """

    sessions: int = 0
    running: int = 0
    waiting: int = 0
    pages: int = 0
    pages_used: int = 0
    pages_cached: int = 0
    sequences: int = 0
    prefill_per_s: float = 0.0
    decode_per_s: float = 0.0
    batch_rows: float = 0.0
    batch_rows_max: int = 0
    queue_p50: float = 0.0
    queue_p95: float = 0.0
    queue_p99: float = 0.0
    num_busy: int = 0
    prefix_wanted: int = 0
    prefix_found: int = 0
    bytes_waiting: int = 0

    @classmethod
    def of(cls, values: Sequence[float]) -> EngineStats:
        """Return what a server told, in this order; an older one leaves some out, a newer one's surplus is dropped."""
        whole = {entry.name for entry in fields(cls) if isinstance(entry.default, int)}
        told = {entry.name: value for entry, value in zip(fields(cls), values, strict=False)}
        return cls(**{name: int(value) if name in whole else value for name, value in told.items()})  # type: ignore[arg-type]
