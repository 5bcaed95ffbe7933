"""What a bootstrap peer is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from swarm.errors import UsageError
from swarm.flag import flag

PORT = 31337
"""Where a bootstrap peer listens unless told otherwise; peers' lists name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapConfig:
    """Introduce peers to each other: others name this one in --initial-peers.

    Raises:
        UsageError: A port that is none.
    """

    port: int = field(default=PORT, metadata=flag("TCP port to listen on at all interfaces; 0 is any free one"))
    identity_path: Path | None = field(
        default=None,
        metadata=flag("key file that keeps the peer id over restarts; created when missing", metavar="KEY", parse=Path),
    )
    host_maddrs: tuple[str, ...] = field(
        default=(), metadata=flag("multiaddrs to listen on, instead of all interfaces and --port", metavar="ADDR")
    )
    announce_maddrs: tuple[str, ...] = field(
        default=(), metadata=flag("multiaddrs to tell others, instead of those found out", metavar="ADDR")
    )
    initial_peers: tuple[str, ...] = field(
        default=(), metadata=flag("other bootstrap peers or members of the swarm, if there are any", metavar="ADDR")
    )
    swarm_key: str | None = field(
        default=None, metadata=flag("key file of a private swarm; left out: as `swarm join` has it", metavar="FILE")
    )
    new_swarm: bool = field(
        default=False, metadata=flag("begin a swarm of its own, whichever was joined with `swarm join`")
    )
    metrics_port: int | None = field(
        default=None,
        metadata=flag(
            "TCP port of /metrics (Prometheus) and /healthz; 0: any free one; left out: neither", metavar="N"
        ),
    )
    metrics_host: str = field(default="127.0.0.1", metadata=flag("address that they are served at", metavar="HOST"))
    metrics_key_file: Path | None = field(
        default=None,
        metadata=flag("file of keys, one a line, of which /metrics wants one", metavar="FILE", parse=Path),
    )
    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port} is no TCP port; give 0 to 65535")
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65535:
            raise UsageError(f"--metrics-port {self.metrics_port} is no TCP port; give 0 to 65535")
