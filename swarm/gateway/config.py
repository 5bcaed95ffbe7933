"""What a gateway is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from swarm.errors import UsageError
from swarm.flag import flag, parse_bytes

PORT = 8000
"""Where OpenAI-compatible servers are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Answer OpenAI-compatible HTTP requests with models of a swarm.

    Raises:
        UsageError: A number that is out of range.
    """

    models: tuple[str, ...] = field(
        default=(),
        metadata=flag(
            "folders, .gguf files, hub ids, bundled names; left out: what the swarm serves, now or later, and is here",
            metavar="MODEL",
            positional=True,
        ),
    )
    initial_peers: tuple[str, ...] = field(
        default=(), metadata=flag("multiaddrs of peers of the swarm to join", metavar="ADDR")
    )
    swarm_key: str | None = field(
        default=None, metadata=flag("key file of a private swarm; left out: as `swarm join` has it", metavar="FILE")
    )
    host: str = field(default="127.0.0.1", metadata=flag("address to listen on; others than loopback need a key"))
    port: int = field(default=PORT, metadata=flag("TCP port to listen on; 0 is any free one"))
    api_key: tuple[str, ...] = field(
        default=(),
        repr=False,
        metadata=flag("keys to let in; anybody on this machine may see them here", metavar="KEY"),
    )
    api_keys_file: Path | None = field(
        default=None,
        metadata=flag(
            "file with a key on each line, its own limits behind it; lines that begin with # are skipped",
            metavar="FILE",
            parse=Path,
        ),
    )
    requests_per_minute: int = field(default=600, metadata=flag("requests a key may send; 0 is any number"))
    tokens_per_minute: int = field(
        default=0, metadata=flag("tokens of prompts and answers a key may use; 0 is any number")
    )
    tokens_per_day: int = field(default=0, metadata=flag("the same by day, from midnight UTC; 0 is any number"))
    max_running: int = field(default=32, metadata=flag("texts that are written at once; others wait"))
    max_waiting: int = field(default=128, metadata=flag("texts that may wait; more are refused with 503"))
    max_body: int = field(
        default=4 * 1024**2, metadata=flag("largest request, such as 4MiB", metavar="BYTES", parse=parse_bytes)
    )
    threads: int = field(default=0, metadata=flag("CPU threads for the models' heads; 0 is as many as there are cores"))
    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port} is no TCP port; give 0 to 65535")
        for name in ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "max_waiting", "threads"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: give 0 or more")
        for name in ("max_running", "max_body"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: give 1 or more")
