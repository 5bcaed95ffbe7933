"""What people are shown of a swarm: values only, made by `swarm.monitor.surveying`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from swarm.planning.coverage import runs
from swarm.types import ServerRecord, Span


class Standing(Enum):
    """What a server is to whoever looks for a route; only SERVING ones are taken."""

    SERVING = "serving"
    JOINING = "joining"
    LEAVING = "leaving"
    UNREACHABLE = "unreachable"
    OTHER = "other checkpoint"


class Level(Enum):
    """How much an alert matters: BAD, nobody can use the model; WARN, soon perhaps; NOTE, good to know."""

    BAD = "bad"
    WARN = "warn"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that somebody should know, in words; `kind` is the same for the same matter."""

    level: Level
    kind: str
    text: str
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Listed:
    """A server and its standing."""

    record: ServerRecord
    standing: Standing

    @property
    def span_per_s(self) -> float:
        """Tokens per second through its whole span, decoding."""
        return self.record.decode_per_s / len(self.record.span)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring blocks that are equally well off.

    Attributes:
        span: Which.
        servers: How many serve them.
        per_s: Tokens per second of these together, decoding.
        pages: KV pages that new sessions could take there.
    """

    span: Span
    servers: int
    per_s: float
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """One model as the swarm serves it now.

    Attributes:
        name: Its name in the swarm.
        fingerprint: Of the checkpoint that most servers hold; the others are listed as OTHER.
        num_blocks: Blocks of the whole model.
        servers: All of them, in the order of their spans.
        stretches: The whole model, from its first block to its last.
        alerts: The worst first.
    """

    name: str
    fingerprint: str
    num_blocks: int
    servers: tuple[Listed, ...]
    stretches: tuple[Stretch, ...]
    alerts: tuple[Alert, ...] = ()

    @property
    def missing(self) -> tuple[Span, ...]:
        """The blocks that nobody serves."""
        return tuple(stretch.span for stretch in self.stretches if not stretch.servers)

    @property
    def num_covered(self) -> int:
        """Blocks that somebody serves."""
        return self.num_blocks - sum(map(len, self.missing))

    @property
    def is_whole(self) -> bool:
        """Whether each block is served: then the model can be used."""
        return not self.missing

    @property
    def per_s(self) -> float:
        """Tokens per second through the whole model, all users together: as many as its weakest block lets through."""
        return min(stretch.per_s for stretch in self.stretches) if self.is_whole else 0.0

    @property
    def fewest(self) -> int:
        """Servers of the block that has the fewest."""
        return min(stretch.servers for stretch in self.stretches)

    @property
    def bottleneck(self) -> tuple[Span, ...]:
        """The served blocks with the least throughput; none if all are alike."""
        served = [stretch for stretch in self.stretches if stretch.servers]
        least = min((stretch.per_s for stretch in served), default=0.0)
        if all(stretch.per_s == least for stretch in served):
            return ()
        weak = [stretch.span for stretch in served if stretch.per_s == least]
        return runs([block for span in weak for block in range(span.start, span.end)])

    def count(self, standing: Standing) -> int:
        """Return how many servers have this standing."""
        return sum(listed.standing is standing for listed in self.servers)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmState:
    """All models of a swarm at Unix time `taken_at`.

    Attributes:
        taken_at: When the directory was last seen.
        models: Those with most servers first.
        problem: Why what is shown is older than it should be; empty if it is not.
    """

    taken_at: float
    models: tuple[ModelState, ...] = ()
    problem: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether there is a model, and all of them can be used."""
        return bool(self.models) and all(model.is_whole for model in self.models)

    def model(self, name: str) -> ModelState | None:
        """Return the model with this name, if the swarm has it."""
        return next((model for model in self.models if model.name == name), None)
