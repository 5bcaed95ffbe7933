"""One simulated server: what its machine is like, and what became of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from random import Random

from swarm.planning import Decision, Placer
from swarm.simulator.links import Place, round_trip
from swarm.simulator.notices import MODEL
from swarm.types import PeerId, ServerRecord, ServerState, Span
from swarm.wire.records import MAX_ROUND_TRIPS

SPEED = 1500.0
"""Tokens/s through one block, median: an 80-block model at 19 tokens/s for one who holds it whole."""

SPEED_SPREAD = 0.6
"""Standard deviation of the logarithm: the fastest of a hundred is some 16 times as fast as the slowest."""

SPAN_SPREAD = 0.4
"""As SPEED_SPREAD, of how many blocks fit."""

LOAD_BASE = 10.0
"""Seconds that loading takes before the first block."""

LOAD_PER_BLOCK = (1.0, 5.0)
"""Seconds for each block: from disk, or over a good line."""

ASKED = 64
"""Other servers drawn at a look; those of them that hold our next block are pinged."""


@dataclass(slots=True)
class Machine:
    """What a server can do.

    Attributes:
        place: Where it is.
        speed: Tokens/s through one block.
        size: Blocks that fit.
        load_per_block: Seconds to load one.
    """

    place: Place
    speed: float
    size: int
    load_per_block: float

    @classmethod
    def draw(cls, chance: Random, *, num_blocks: int, share: float) -> Machine:
        """Return one at random; `share` of the blocks fits the median one."""
        size = round(num_blocks * share * math.exp(chance.gauss(0, SPAN_SPREAD)))
        return cls(
            place=Place.draw(chance),
            speed=SPEED * math.exp(chance.gauss(0, SPEED_SPREAD)),
            size=max(1, min(num_blocks, size)),
            load_per_block=chance.uniform(*LOAD_PER_BLOCK),
        )


@dataclass(slots=True)
class SimulatedServer:
    """A server's life.

    Attributes:
        machine: What it can do.
        placer: The real code that decides where its blocks are.
        record: As last announced.
        is_alive: Until it leaves or dies.
        is_cut: Whether its region is cut off.
        serving: The span that sessions can use now; None while it loads or moves.
        turn: Counts decisions, so that what was scheduled for an earlier one is dropped.
        round_trips: To servers that may come next, measured.
    """

    machine: Machine
    placer: Placer
    record: ServerRecord
    is_alive: bool = True
    is_cut: bool = False
    serving: Span | None = None
    turn: int = 0
    round_trips: dict[PeerId, float] = field(default_factory=dict)

    @classmethod
    def make(cls, index: int, machine: Machine, *, num_blocks: int, ttl: float) -> SimulatedServer:
        """Return one that has done nothing yet."""
        record = ServerRecord(
            peer=PeerId(f"server-{index:06}"),
            model=MODEL,
            fingerprint="",
            num_blocks=num_blocks,
            span=Span(0, machine.size),
            digests=(),
            state=ServerState.JOINING,
            decode_per_s=0.0,
            prefill_per_s=0.0,
            free_pages=10_000,
            load=0,
            dtype="bfloat16",
            quant="int8",
            addrs=(),
            public_name="",
            version="",
            expires_at=0.0,
        )
        return cls(machine=machine, placer=Placer(record, ttl=ttl), record=record)

    @property
    def peer(self) -> PeerId:
        """Its id."""
        return self.record.peer

    @property
    def load_seconds(self) -> float:
        """How long it takes to load its span."""
        return LOAD_BASE + self.machine.size * self.machine.load_per_block

    def follow(self, decision: Decision) -> None:
        """Announce what was decided; a server that moves takes no sessions until it is online again."""
        self.turn += 1
        self.record = replace(
            self.record,
            state=decision.state,
            span=decision.span,
            next_span=decision.next_span,
            since=decision.since,
        )
        self.serving = decision.span if decision.state is ServerState.ONLINE else None

    def measured(self) -> None:
        """Know its speed, having loaded."""
        speed = self.machine.speed
        self.record = replace(self.record, decode_per_s=speed, prefill_per_s=20 * speed)

    def ping(self, others: list[SimulatedServer]) -> bool:
        """Measure those of `others` that may come next, and keep the nearest; whether that changed anything."""
        before = len(self.round_trips)
        for other in others:
            if other.is_alive and other.is_cut == self.is_cut and self.record.span.end in other.record.span:
                self.round_trips[other.peer] = round_trip(self.machine.place, other.machine.place)
        if len(self.round_trips) == before:
            return False
        nearest = sorted(self.round_trips.items(), key=lambda item: item[1])[:MAX_ROUND_TRIPS]
        self.round_trips = dict(nearest)
        self.record = replace(self.record, round_trips=tuple(nearest))
        return True
