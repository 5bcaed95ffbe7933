"""The placer: what a server with `--blocks auto` announces, loads and waits for, from its first look to its last.

Pure: it is told what happened and says what to do next. Who drives it does the looking, announcing and loading:

    decision = placer.start(outlook, now)
    forever:
        announce decision.state, .span, .next_span, .since; wait until that is stored
        LOOK:   sleep until decision.look_at, get a fresh view;  decision = placer.look(Outlook.of(view, ...), now)
        DRAIN:  take no new sessions, hand over those there are; decision = placer.drained(now)
        LOAD:   load decision.span, measure its speed;           decision = placer.loaded(now, speed)

What passes between these states:

    CLAIMING ──claim stands──▶ LOADING ──loaded──▶ SERVING ──something is better──▶ WANTING ──our turn──▶ LEAVING
        ▲ │ another span              ▲               ▲ │ look                          │ not any more        │
        └─┘                           │               └─┘◀──────────────────────────────┘                     │
                                      └───────────────────────────────drained──────────────────────────────────┘

Times: a claim waits `CLAIM_WAIT`, for a mistake there costs little; a wish to move waits a sixth of the ttl, which
must be twice what a record takes to be stored and read. Looks come with the refreshes, each third of the ttl, but
rarer in large swarms, where somebody always looks. All are stretched at random, seeded by the peer id.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from random import Random

from swarm.planning.moving import may_move, next_span
from swarm.planning.outlook import Outlook
from swarm.planning.placement import neediest, settle
from swarm.types import PeerId, ServerRecord, ServerState, Span

CLAIM_WAIT = 2.0
"""Seconds, up to half as much again, from a stored claim to the look that may confirm it."""

MAX_CLAIM_LOOKS = 4
"""Then a claim is loaded as it is: better a span that others have too than none."""

MIN_MOVE_WAIT = 2.0
"""Seconds that a wish to move waits at least, however short the ttl: twice what the directory takes."""

LEASE = 900.0
"""Seconds, up to half as much again, that a server stays before it moves for anything but a hole."""

LOADS_PER_LEASE = 20.0
"""A lease is at least so many times as long as loading took, or moving would cost more than it gains."""

CROWD = 32
"""Servers of which each one looks with every third of the ttl; of more each looks rarer: a look reads all records."""

OFTENEST, RAREST = 0.5, 30.0
"""Times a third of the ttl between looks: the few of a small swarm look often, so that holes are filled within half
a minute; nobody looks rarer than with every tenth ttl."""

DESPERATE_TTLS = 2.0
"""For how many ttls there is a hole before we do not count on others to fill it: they may serve fixed spans."""


class Act(Enum):
    """What is to be done once the decision is announced; see the module's text."""

    LOOK = "look"
    DRAIN = "drain"
    LOAD = "load"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to announce, and what to do then.

    Attributes:
        act: See `Act`.
        state: To announce.
        span: To announce, and to load where that is the act.
        next_span: To announce.
        since: To announce.
        look_at: Unix time of the next look; infinite where another act comes first.
    """

    act: Act
    state: ServerState
    span: Span
    next_span: Span | None = None
    since: float
    look_at: float = inf

    @property
    def announced(self) -> tuple[object, ...]:
        """What of it others are told."""
        return self.state, self.span, self.next_span, self.since


class Placer:
    """Decides where a server's blocks are; see the module's text.

    Args:
        record: Ours, as far as it is known before a span is chosen: the span's length is how many blocks we can
            hold; `decode_per_s` may be 0, and is guessed from others' until it is measured.
        ttl: Seconds that records live.
    """

    def __init__(self, record: ServerRecord, *, ttl: float) -> None:
        self._record = record
        self._ttl = ttl
        self._chance = Random(record.peer)
        self._claim_looks = 0
        self._held_since = 0.0
        self._load_began = 0.0
        self._load_seconds = 0.0
        self._lease_stretch = self._chance.uniform(1.0, 1.5)
        self._hole_since: float | None = None

    @property
    def peer(self) -> PeerId:
        """Whose span it is."""
        return self._record.peer

    def start(self, outlook: Outlook, now: float) -> Decision:
        """Claim the span that is needed most."""
        span = neediest(outlook.without(self.peer), len(self._record.span))
        return self._claim(span, now, since=now)

    def resume(self, span: Span, now: float, *, speed: float, held_since: float) -> Decision:
        """Begin as one who already serves `span`, since `held_since`."""
        self._record = replace(self._record, span=span)
        decision = replace(self.loaded(now, speed), since=held_since)
        self._held_since = held_since
        self._record = replace(self._record, since=held_since)
        return decision

    def look(self, outlook: Outlook, now: float) -> Decision:
        """Decide again, after the last decision was stored and its `look_at` has come."""
        if self._record.state is ServerState.JOINING:
            return self._look_at_claims(outlook, now)
        self._watch_holes(outlook, now)
        if self._record.next_span is not None:
            if may_move(outlook, self._record, is_desperate=self._is_desperate(now)):
                return self._decide(Act.DRAIN, state=ServerState.DRAINING)
            return self._stay(outlook, now)
        lease = max(LEASE, LOADS_PER_LEASE * self._load_seconds) * self._lease_stretch
        is_settled = now - self._held_since >= lease
        wanted = next_span(outlook, self._record, is_settled=is_settled, is_desperate=self._is_desperate(now))
        if wanted is None:
            return self._stay(outlook, now)
        others = (r.since for r in outlook.records.values() if r.next_span is not None and r.peer != self.peer)
        since = max(now, max(others, default=0.0) + 0.001)
        wait = max(MIN_MOVE_WAIT, self._ttl / 6) * self._chance.uniform(1.0, 1.5)
        return self._decide(Act.LOOK, next_span=wanted, since=since, look_at=now + wait)

    def drained(self, now: float) -> Decision:
        """Load the span that we wanted: our sessions are elsewhere."""
        assert self._record.next_span is not None, "nobody drains without a wish to move"
        self._load_began = now
        return self._decide(Act.LOAD, state=ServerState.JOINING, span=self._record.next_span, next_span=None, since=now)

    def loaded(self, now: float, speed: float) -> Decision:
        """Serve: the span is loaded, and gives `speed` tokens/s through one block."""
        self._load_seconds = now - self._load_began if self._load_began else 0.0
        self._held_since = now
        self._lease_stretch = self._chance.uniform(1.0, 1.5)
        self._record = replace(self._record, decode_per_s=speed)
        look_at = now + self._ttl / 3 * self._chance.uniform(0.5, 1.25)
        return self._decide(Act.LOOK, state=ServerState.ONLINE, next_span=None, since=now, look_at=look_at)

    def _look_at_claims(self, outlook: Outlook, now: float) -> Decision:
        self._claim_looks += 1
        span = settle(outlook, self._record)
        if span == self._record.span or self._claim_looks >= MAX_CLAIM_LOOKS:
            self._load_began = now
            return self._decide(Act.LOAD)
        return self._claim(span, now, since=self._record.since)

    def _claim(self, span: Span, now: float, *, since: float) -> Decision:
        look_at = now + CLAIM_WAIT * self._chance.uniform(1.0, 1.5)
        return self._decide(Act.LOOK, state=ServerState.JOINING, span=span, since=since, look_at=look_at)

    def _stay(self, outlook: Outlook, now: float) -> Decision:
        rarer = min(RAREST, max(OFTENEST, len(outlook.records) / CROWD))
        look_at = now + self._ttl / 3 * rarer * self._chance.uniform(0.75, 1.25)
        return self._decide(Act.LOOK, next_span=None, since=self._held_since, look_at=look_at)

    def _watch_holes(self, outlook: Outlook, now: float) -> None:
        if outlook.levels.num_holes == 0:
            self._hole_since = None
        elif self._hole_since is None:
            self._hole_since = now

    def _is_desperate(self, now: float) -> bool:
        return self._hole_since is not None and now - self._hole_since > DESPERATE_TTLS * self._ttl

    def _decide(self, act: Act, *, look_at: float = inf, **changes: object) -> Decision:
        self._record = record = replace(self._record, **changes)  # type: ignore[arg-type]
        return Decision(
            act=act,
            state=record.state,
            span=record.span,
            next_span=record.next_span,
            since=record.since,
            look_at=look_at,
        )
