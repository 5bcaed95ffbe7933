"""What a server has done since its start, whatever blocks it held: plain counts, for its metrics and its log."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from swarm.errors import SwarmError


@dataclass(slots=True)
class Tally:
    """Counts; written on the event loop only.

    Attributes:
        opened: Sessions that were opened here.
        steps: Steps received, those that were refused not among them.
        tokens: In these steps.
        replays: Outboxes that were sent again, to the hop that took a lost one's place.
        handed_over: Sessions that were asked to move elsewhere, since we leave or move.
        links_lost: Ends of links to next hops.
        loads: Spans loaded.
        failures: What clients were told that failed, by the error's class.
    """

    opened: int = 0
    steps: int = 0
    tokens: int = 0
    replays: int = 0
    handed_over: int = 0
    links_lost: int = 0
    loads: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def failed(self, error: SwarmError) -> None:
        """Count what a client is told."""
        self.failures[type(error).__name__] += 1
