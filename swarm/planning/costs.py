"""What a route costs, in seconds a decode step: legs of the network, queues, compute, and what may go wrong.

    client ──leg──▶ first ──move──▶ next ──move──▶ ... last ──leg──▶ client

A hop costs its `entry` (overhead, queue, shortage of pages) once and its compute for each block. Our own
measurements count before what servers announce, and what nobody measured costs a default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite

from swarm.types import PeerId, Reach, ServerRecord, View

BATCH_SHARE = 0.3
"""Of a lone step's time is what each step more in a batch adds: 16 sessions decode in 5 times the time of one
(docs/serving.md), since the weights are read once for all."""

SESSION_PAGES = 64
"""KV pages that a new session is expected to fill: 1,024 tokens."""

PAGE_SHORTAGE = 0.2
"""Seconds a step that a server without any free page costs: sessions there wait, or give way and replay."""

RELAY_TIE = 1e-6
"""Seconds: of routes that cost the same the direct one is taken."""

MIN_ROUND_TRIP = 1e-4
"""Seconds: no announced round trip counts as less, so that a stranger's zeros do not attract everybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What routes cost besides what the records say, in seconds.

    Attributes:
        to_client: Our own measured round trips to servers.
        between: Round trips from a server (outer key) to the next (inner key), as servers announced them.
        per_block: Our own measured compute of one decode step through one block, instead of what the server announces.
        default_round_trip: Between us and servers that we have not measured: a continental distance.
        relay_penalty: What a round trip that nobody measured takes longer to a relayed server.
        hop_overhead: Transport and scheduling of one hop, whoever it is.
    """

    to_client: Mapping[PeerId, float] = field(default_factory=dict)
    between: Mapping[PeerId, Mapping[PeerId, float]] = field(default_factory=dict)
    per_block: Mapping[PeerId, float] = field(default_factory=dict)
    default_round_trip: float = 0.05
    relay_penalty: float = 0.05
    hop_overhead: float = 0.001

    @classmethod
    def of(
        cls,
        view: View,
        to_client: Mapping[PeerId, float] | None = None,
        *,
        per_block: Mapping[PeerId, float] | None = None,
    ) -> Costs:
        """Return the costs with the round trips that the servers of `view` announce, each both ways round.

        Where both ends announce one, the larger counts: a server cannot make itself nearer than its neighbours
        find it. Make it once for each view; of 10,000 servers it takes about a tenth of a second.
        """
        between: dict[PeerId, dict[PeerId, float]] = {}
        for one, other, seconds in _announced(view):
            there, back = between.setdefault(one, {}), between.setdefault(other, {})
            there[other] = back[one] = max(seconds, there.get(other, 0.0))
        return cls(to_client=to_client or {}, between=between, per_block=per_block or {})

    def leg(self, server: ServerRecord) -> float:
        """One way between the client and a server."""
        known = self.to_client.get(server.peer)
        relay = self.relay_penalty if is_relayed(server) else 0.0
        return (self.default_round_trip + relay if known is None else known) / 2

    def move(self, before: PeerId, after: PeerId, *, is_relayed: bool = False) -> float:
        """One way from a server to the next, of which is told whether it is reached through a relay."""
        known = self.between.get(before, {}).get(after)
        return self.leaving(before) + self.entering(after, is_relayed=is_relayed) if known is None else known / 2

    def leaving(self, before: PeerId) -> float:
        """The part of `before` in one way between two that have not measured each other.

        They are taken to be as far apart as the way through us is long, which is never too short: who is near to
        us both is near to the other. Of whom we have not measured, half the default.
        """
        return self.to_client.get(before, self.default_round_trip / 2) / 2

    def entering(self, after: PeerId, *, is_relayed: bool = False) -> float:
        """The part of `after`, as `leaving`."""
        relay = self.relay_penalty / 2 if is_relayed and after not in self.to_client else 0.0
        return self.leaving(after) + relay

    def block(self, server: ServerRecord) -> float:
        """Compute of one decode step through one block."""
        known = self.per_block.get(server.peer)
        return 1 / max(server.decode_per_s, 1e-9) if known is None else known

    def queue(self, server: ServerRecord) -> float:
        """What the steps that wait or run there now add to ours."""
        return server.load * BATCH_SHARE * len(server.span) * self.block(server)

    def entry(self, server: ServerRecord) -> float:
        """What a hop on `server` costs, however many blocks it runs there, without the network."""
        shortage = PAGE_SHORTAGE * max(0.0, 1 - server.free_pages / SESSION_PAGES)
        tie = RELAY_TIE if is_relayed(server) else 0.0
        return self.hop_overhead + self.queue(server) + shortage + tie


def is_relayed(server: ServerRecord) -> bool:
    """Whether others reach it through a relay only."""
    return server.reach is Reach.RELAYED


def _announced(view: View) -> Iterator[tuple[PeerId, PeerId, float]]:
    for record in view.records:
        for other, seconds in record.round_trips:
            if other != record.peer and isfinite(seconds):
                yield record.peer, other, max(seconds, MIN_ROUND_TRIP)
