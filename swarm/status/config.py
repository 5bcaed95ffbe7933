"""What a look at the swarm is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.errors import UsageError
from swarm.flag import flag


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusConfig:
    """One look at the swarm; exit status 0 if each model is served whole, 1 if not, or if there is none.

    Raises:
        UsageError: No time to look.
    """

    model: str | None = field(default=None, metadata=flag("only this model; left out: all", positional=True))
    initial_peers: tuple[str, ...] = field(
        default=(), metadata=flag("multiaddrs of peers of the swarm to look at", metavar="ADDR")
    )
    swarm_key: str | None = field(
        default=None, metadata=flag("key file of a private swarm; left out: as `swarm join` has it", metavar="FILE")
    )
    json: bool = field(default=False, metadata=flag("print JSON, of the same shape as the monitor's /api/v1/state"))
    timeout: float = field(default=15.0, metadata=flag("seconds for somebody of the swarm to answer", metavar="S"))
    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= 3600:
            raise UsageError(f"--timeout {self.timeout:g}: give more than 0 and at most 3600 seconds")
