"""What a client's user decides; `from_pretrained` takes each field by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from swarm.errors import UsageError
from swarm.swarm_key import SwarmKey
from swarm.wire.limits import MAX_PRIORITY
from swarm.wire.messages import CODECS


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long the client waits, in seconds.

    Attributes:
        join: For the first of the initial peers to answer.
        coverage: For servers of all blocks to appear, before `BlocksMissing`.
        open: For a hop to accept a session.
        step: For a step's result; each chunk of a long prompt that comes back starts it anew.
        mend: For a step to get a result while hops are replaced, one after another.
        busy: For a busy hop to have room again, while there is no progress, before `Busy`.
    """

    join: float = 10.0
    coverage: float = 8.0
    open: float = 5.0
    step: float = 60.0
    mend: float = 60.0
    busy: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """How a client finds servers and talks to them.

    Attributes:
        initial_peers: Multiaddrs of any peers of the swarm, each ending in /p2p/ID.
        swarm_key: The key of a private swarm, or its file.
        codec: How activations travel: "auto" is the widest dtype among the route's hops; "int8" is a quarter of
            float32, with a bounded error. In "float32" nothing is rounded on the way: the text depends neither on
            where the model is split nor on hops that are replaced in the middle of it.
        chunk_tokens: Tokens per step of a long prompt: small enough that the hops work at the
            same time and others' steps slip in between, large enough for full-speed matmuls.
        view_age: Seconds for which a view of the swarm is reused.
        priority: 0 to 9 (the last to be served) among the sessions of this client.
        reuse_prefixes: Whether servers may keep what was computed for our prompts for a while, and begin other
            prompts of ours with it.
        timeouts: See `Timeouts`.
    """

    initial_peers: tuple[str, ...]
    swarm_key: str | SwarmKey | None = None
    codec: str = "auto"
    chunk_tokens: int = 128
    view_age: float = 5.0
    priority: int = 0
    reuse_prefixes: bool = True
    timeouts: Timeouts = field(default_factory=Timeouts)

    @property
    def key(self) -> SwarmKey | None:
        """The key itself.

        Raises:
            UsageError: Its file cannot be used.
        """
        return SwarmKey.read(Path(self.swarm_key)) if isinstance(self.swarm_key, str) else self.swarm_key

    def __post_init__(self) -> None:
        if self.codec != "auto" and self.codec not in CODECS:
            raise UsageError(f"codec {self.codec!r}: give auto or one of {', '.join(CODECS)}")
        if not 1 <= self.chunk_tokens <= 1024:
            raise UsageError(f"chunk_tokens={self.chunk_tokens}: give 1 to 1024")
        if not 0 <= self.priority <= MAX_PRIORITY:
            raise UsageError(f"priority={self.priority}: give 0 to {MAX_PRIORITY}")
