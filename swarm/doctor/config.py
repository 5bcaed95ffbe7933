"""What the doctor can be asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.blocks.files.bundled import DEFAULT_MODEL
from swarm.errors import UsageError
from swarm.flag import flag


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorConfig:
    """Examine a model on this machine."""

    model: str = field(
        default=DEFAULT_MODEL,
        metadata=flag("Hugging Face folder, .gguf file, hub id or bundled name", positional=True, metavar="MODEL"),
    )
    conformance: bool = field(
        default=False,
        metadata=flag("compare its numbers and tokens with transformers' own, in float32: takes the memory of both"),
    )
    prompt_tokens: int = field(default=40, metadata=flag("random tokens to begin with", metavar="N"))
    new_tokens: int = field(default=16, metadata=flag("tokens to go on for, greedily", metavar="N"))
    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))

    def __post_init__(self) -> None:
        if not self.conformance:
            raise UsageError("nothing to examine: say --conformance")
        if self.prompt_tokens < 1 or self.new_tokens < 1:
            raise UsageError("--prompt-tokens and --new-tokens must be 1 or more")
