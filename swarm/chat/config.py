"""What a chat is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.errors import UsageError
from swarm.flag import flag

LOWEST = {"max_tokens": 1, "temperature": 0.0, "top_p": 0.0, "top_k": 0, "repetition_penalty": 0.01, "seed": 0}
HIGHEST = {"max_tokens": 1 << 20, "temperature": 5.0, "top_p": 1.0, "top_k": 1 << 20, "repetition_penalty": 10.0}
"""What makes sense of each sampling option, ends included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """Talk with a model of the swarm in this terminal.

    Raises:
        UsageError: A sampling option out of its range.
    """

    model: str | None = field(
        default=None,
        metadata=flag("folder, .gguf file, hub id or bundled name; left out, the swarm's only model", positional=True),
    )
    initial_peers: tuple[str, ...] = field(
        default=(), metadata=flag("multiaddrs of any peers of the swarm, each ending in /p2p/ID", metavar="ADDR")
    )
    swarm_key: str | None = field(
        default=None, metadata=flag("key file of a private swarm; left out: as `swarm join` has it", metavar="FILE")
    )
    system: str = field(default="", metadata=flag("what the model is told before the conversation", metavar="TEXT"))
    max_tokens: int = field(default=1024, metadata=flag("tokens of an answer at most", metavar="N"))
    temperature: float | None = field(
        default=None,
        metadata=flag("0 always takes the likeliest token; left out, as the model's makers say", metavar="NUMBER"),
    )
    top_p: float | None = field(
        default=None, metadata=flag("draw among the likeliest tokens that hold this share", metavar="SHARE")
    )
    top_k: int | None = field(default=None, metadata=flag("draw among so many likeliest tokens", metavar="N"))
    repetition_penalty: float | None = field(
        default=None, metadata=flag("over 1 makes tokens that were there less likely", metavar="NUMBER")
    )
    seed: int | None = field(default=None, metadata=flag("draw the same tokens each time", metavar="N"))
    history: bool = field(default=True, metadata=flag("keep no file of the lines typed here"))
    debug: bool = field(default=False, metadata=flag("log more, to stderr, and show tracebacks"))

    def __post_init__(self) -> None:
        for name, least in LOWEST.items():
            value, most = getattr(self, name), HIGHEST.get(name, float("inf"))
            if value is not None and not least <= value <= most:
                raise UsageError(f"--{name.replace('_', '-')} {value}: give {least} to {most}")
