"""What the doctor can be asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.errors import UsageError
from swarm.flag import flag, parse_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorConfig:
    """Find out what is wrong: with this machine, the swarm, or a model's files."""

    model: str | None = field(
        default=None,
        metadata=flag(
            "Hugging Face folder, .gguf file, hub id or bundled name; left out: all models of the swarm",
            positional=True,
            metavar="MODEL",
        ),
    )
    initial_peers: tuple[str, ...] = field(
        default=(), metadata=flag("multiaddrs of peers of the swarm to examine", metavar="ADDR")
    )
    swarm_key: str | None = field(
        default=None, metadata=flag("key file of a private swarm; left out: as `swarm join` has it", metavar="FILE")
    )
    port: int | None = field(
        default=None, metadata=flag("also examine whether a server at this TCP port would be reached")
    )
    host_maddrs: tuple[str, ...] = field(
        default=(), metadata=flag("likewise at these multiaddrs, instead of --port on all addresses", metavar="ADDR")
    )
    announce_maddrs: tuple[str, ...] = field(
        default=(), metadata=flag("multiaddrs that the server would tell others", metavar="ADDR")
    )
    identity_path: str | None = field(default=None, metadata=flag("key file that the server would use", metavar="FILE"))
    memory: int = field(
        default=0,
        metadata=flag("memory that the server would get, such as 8GB; 0: most of what is free", parse=parse_bytes),
    )
    json: bool = field(default=False, metadata=flag("print one JSON object instead of lines"))
    conformance: bool = field(
        default=False,
        metadata=flag(
            "only compare MODEL's numbers and tokens with transformers' own, in float32: takes the memory of both"
        ),
    )
    prompt_tokens: int = field(
        default=40, metadata=flag("with --conformance: random tokens to begin with", metavar="N")
    )
    new_tokens: int = field(default=16, metadata=flag("with --conformance: tokens to go on for, greedily", metavar="N"))
    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))

    @property
    def is_for_a_server(self) -> bool:
        """Whether to examine this machine as one that would serve."""
        return bool(
            self.port is not None or self.host_maddrs or self.announce_maddrs or self.identity_path or self.memory
        )

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.new_tokens < 1:
            raise UsageError("--conformance: --prompt-tokens and --new-tokens must be 1 or more")
        if self.port is not None and not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port} is no TCP port; give 0 to 65535")
