"""What a monitor is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from swarm.errors import UsageError
from swarm.flag import flag

PORT = 8080


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig:
    """Show who serves what in a swarm, as a live web page with an API; it serves no blocks itself.

    Raises:
        UsageError: A port, interval or retention that cannot work.
    """

    initial_peers: tuple[str, ...] = field(
        default=(), metadata=flag("multiaddrs of peers of the swarm to look at", metavar="ADDR")
    )
    swarm_key: str | None = field(
        default=None, metadata=flag("key file of a private swarm; left out: as `swarm join` has it", metavar="FILE")
    )
    host: str = field(default="127.0.0.1", metadata=flag("address to listen on; another one needs --api-key"))
    port: int = field(default=PORT, metadata=flag("TCP port to listen on; 0: any free one"))
    api_key: tuple[str, ...] = field(
        default=(), repr=False, metadata=flag("who sends one of these may look; left out: whoever is on this machine")
    )
    api_keys_file: Path | None = field(
        default=None,
        metadata=flag("file with a key on each line; lines that begin with # are skipped", metavar="FILE", parse=Path),
    )
    history: Path | None = field(
        default=None,
        metadata=flag(
            "SQLite file that keeps the history; left out: one for each swarm in the cache folder", parse=Path
        ),
    )
    retention: float = field(default=30.0, metadata=flag("days that history is kept", metavar="DAYS"))
    interval: float = field(
        default=2.0, metadata=flag("seconds between two looks; more where a look takes long", metavar="S")
    )
    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port} is no TCP port; give 0 to 65535")
        if not (math.isfinite(self.retention) and 0 < self.retention <= 3660):
            raise UsageError(f"--retention {self.retention:g}: give more than 0 and at most 3660 days")
        if not 0.5 <= self.interval <= 60:
            raise UsageError(f"--interval {self.interval:g}: give 0.5 to 60 seconds")
