"""What a server's owner decides; each field is a flag of `python -m swarm.server`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from swarm.errors import UsageError
from swarm.flag import flag, parse_bytes
from swarm.types import Span


def parse_blocks(text: str) -> str | int | Span:
    """Read `auto`, a number of blocks, or START:END.

    Raises:
        UsageError: None of these.
    """
    if text == "auto":
        return text
    start, colon, end = text.partition(":")
    try:
        if not colon and int(start) > 0:
            return int(start)
        if colon:
            return Span(int(start), int(end))
    except ValueError:
        pass
    raise UsageError(f"--blocks {text!r}: give auto, a number such as 12, or a range such as 0:10 (end excluded)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Serve a span of a model's blocks in a swarm."""

    model: str | None = field(
        default=None,
        metadata=flag(
            "folder, .gguf file, hub id or bundled name; left out: what the swarm needs, else smollm2-135m",
            positional=True,
        ),
    )
    blocks: str | int | Span = field(
        default="auto",
        metadata=flag(
            "auto: as many as fit, moved to where needed; a number: placed where needed, once; START:END: these",
            parse=parse_blocks,
            metavar="BLOCKS",
        ),
    )
    initial_peers: tuple[str, ...] = field(
        default=(),
        metadata=flag("multiaddrs of peers of the swarm to join; left out: as `swarm join` has it", metavar="ADDR"),
    )
    new_swarm: bool = field(default=False, metadata=flag("start a swarm of its own"))
    swarm_key: str | None = field(
        default=None, metadata=flag("key file of a private swarm; left out: as `swarm join` has it", metavar="FILE")
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata=flag("numbers that weights and activations are kept in")
    )
    quant: Literal["auto", "none", "int8", "int4"] = field(
        default="auto",
        metadata=flag(
            "weight format; auto: a GGUF file's own bits if 4 or 8, else int8, and none with --dtype float32"
        ),
    )
    device: str = field(
        default="auto", metadata=flag("where blocks run: cpu, cuda, cuda:1, ...; auto: cuda if there is one")
    )
    threads: int = field(default=0, metadata=flag("threads that compute; 0: one for each core", metavar="N"))
    memory: int = field(
        default=0,
        metadata=flag(
            "memory of the device for weights and KV, such as 8GB; 0: most of what is free", parse=parse_bytes
        ),
    )
    max_sessions: int = field(
        default=512, metadata=flag("sessions open at a time; one client gets half of them at most", metavar="N")
    )
    session_timeout: float = field(
        default=1800.0, metadata=flag("seconds without a step after which a session's pages are freed", metavar="S")
    )
    throughput: str = field(
        default="auto", metadata=flag("tokens/s through one block to announce; auto: measured at start")
    )
    port: int = field(default=0, metadata=flag("TCP port to listen on; 0: any free one"))
    host_maddrs: tuple[str, ...] = field(
        default=(), metadata=flag("multiaddrs to listen on, instead of --port on all addresses", metavar="ADDR")
    )
    announce_maddrs: tuple[str, ...] = field(
        default=(),
        metadata=flag(
            "multiaddrs told to others, instead of those listened on; /ip4/IP/tcp/PORT/tls: of the direct port",
            metavar="ADDR",
        ),
    )
    identity_path: str | None = field(
        default=None, metadata=flag("key file, made if missing; left out: a new identity at each start", metavar="FILE")
    )
    public_name: str = field(default="", metadata=flag("how others see this server", metavar="NAME"))
    ttl: float = field(default=60.0, metadata=flag("seconds that our record lives; refreshed at a third", metavar="S"))
    drain_timeout: float = field(
        default=15.0, metadata=flag("seconds that running sessions get to finish after SIGTERM", metavar="S")
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
    force: bool = field(default=False, metadata=flag("start even if the span seems not to fit in memory"))
    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))

    def __post_init__(self) -> None:
        if self.threads < 0 or self.max_sessions < 1 or not 0 <= self.port <= 65535:
            raise UsageError("--threads must be 0 or more, --max-sessions 1 or more, --port 0 to 65535")
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65535:
            raise UsageError("--metrics-port must be 0 to 65535")
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", self.device):
            raise UsageError(f"--device {self.device!r}: give auto, cpu, cuda, or a number as in cuda:1")
        if not 3 <= self.ttl <= 600 or not 0 <= self.drain_timeout <= 86400:
            raise UsageError("--ttl must be 3 to 600 seconds, --drain-timeout 0 to 86400")
        if not 1 <= self.session_timeout <= 86400:
            raise UsageError("--session-timeout must be 1 to 86400 seconds")
        if self.throughput != "auto" and not _is_positive(self.throughput):
            raise UsageError(f"--throughput {self.throughput!r}: give auto or a number of tokens/s above 0")
        if len(self.public_name) > 64 or not self.public_name.isprintable():
            raise UsageError("--public-name: at most 64 printable characters")


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < 1e12
    except ValueError:
        return False
