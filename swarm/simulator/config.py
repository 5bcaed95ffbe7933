"""What a simulated swarm is like."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from swarm.errors import UsageError
from swarm.flag import flag


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorConfig:
    """Simulate a swarm of thousands of servers with the real placement and routing code.

    Raises:
        UsageError: A number out of its range.
    """

    servers: int = field(default=1000, metadata=flag("servers, on average", metavar="N"))
    blocks: int = field(default=80, metadata=flag("blocks of the model", metavar="L"))
    hours: float = field(default=4.0, metadata=flag("simulated hours", metavar="H"))
    seed: int = field(default=0, metadata=flag("what chance begins with: equal flags give equal swarms", metavar="S"))
    scenario: Literal["steady", "departure", "crowd", "region", "start"] = field(
        default="steady",
        metadata=flag(
            "beside churn, at a third of the time: nothing, 30 percent leave at once, half as many come at once, or "
            "a region is cut off for a sixth of the time; start: all begin in the same second, without churn"
        ),
    )
    span: float = field(default=0.15, metadata=flag("share of the blocks that a server holds, median", metavar="SHARE"))
    lifetime: float = field(default=4.0, metadata=flag("hours that a server stays, on average; 0 is for ever"))
    ttl: float = field(default=60.0, metadata=flag("seconds that records live"))
    routes: int = field(default=60, metadata=flag("routes that are measured, evenly over the time", metavar="N"))
    json: Path | None = field(default=None, metadata=flag("write the results there", metavar="FILE", parse=Path))
    plots: Path | None = field(default=None, metadata=flag("draw the results there", metavar="DIR", parse=Path))
    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))

    def __post_init__(self) -> None:
        if not 1 <= self.servers <= 100_000 or not 1 <= self.blocks <= 4096:
            raise UsageError("--servers must be 1 to 100000, --blocks 1 to 4096")
        if not 0 < self.hours <= 1000 or self.lifetime < 0 or self.routes < 0:
            raise UsageError("--hours must be above 0 and at most 1000, --lifetime and --routes at least 0")
        if not 0 < self.span <= 1 or not 1 <= self.ttl <= 300:
            raise UsageError("--span must be above 0 and at most 1, --ttl 1 to 300")

    @property
    def seconds(self) -> float:
        """The simulated time."""
        return self.hours * 3600
