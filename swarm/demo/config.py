"""What the demo can be asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from swarm.errors import UsageError
from swarm.flag import flag


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """Run a whole swarm on this machine and answer a prompt."""

    prompt: str = field(
        default="Why is the sky blue? Answer in two sentences.",
        metadata=flag("what to ask", metavar="TEXT"),
    )
    servers: int = field(default=3, metadata=flag("server processes that share the blocks", metavar="N"))
    max_new_tokens: int = field(default=120, metadata=flag("tokens to answer with at most", metavar="N"))
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata=flag("numbers that the servers compute in")
    )
    threads: int = field(default=1, metadata=flag("threads of each server", metavar="N"))
    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))

    def __post_init__(self) -> None:
        if not 1 <= self.servers <= 30 or self.max_new_tokens < 1 or self.threads < 1:
            raise UsageError("--servers must be 1 to 30, --max-new-tokens and --threads 1 or more")
        if not self.prompt.strip():
            raise UsageError("--prompt is empty: ask something")
