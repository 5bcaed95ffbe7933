"""How an answer is getting on, in numbers and in one line of words."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from swarm.client import Explanation
from swarm.types import Hop, PeerId

WINDOW = 3.0
"""Seconds over which the speed is measured: short enough to show a stall, long enough to stand still."""

STALL = 1.0
"""Seconds without a token after which somebody may ask what is going on."""

NEWS = 6.0
"""Seconds for which a fail-over is news."""

Names = Mapping[PeerId, str]
"""What servers call themselves."""


@dataclass(slots=True)
class Progress:
    """One answer's; times are monotonic seconds.

    Attributes:
        began: When the question was sent.
        num_tokens: Tokens so far.
        first_at: When the first came; None before.
        last_at: When the last came, or `began`.
        route: The hops in use, as last seen.
        num_failovers: How often hops were replaced.
        failover_at: When that was seen last.
        news: The last fail-over in words.
    """

    began: float
    num_tokens: int = 0
    first_at: float | None = None
    last_at: float = 0.0
    route: tuple[Hop, ...] = ()
    num_failovers: int = 0
    failover_at: float = 0.0
    news: str = ""
    _recent: deque[float] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.last_at = self.began

    def token(self, now: float) -> None:
        """A token came."""
        self.num_tokens += 1
        self.first_at = now if self.first_at is None else self.first_at
        self.last_at = now
        self._recent.append(now)
        self._forget(now)

    def saw(self, explanation: Explanation, names: Names, now: float) -> None:
        """Take in where the answer comes from now."""
        route = tuple(times.hop for times in explanation.hops)
        if explanation.num_failovers > self.num_failovers:
            self.num_failovers, self.failover_at = explanation.num_failovers, now
            self.news = _news(self.route, route, names)
        self.route = route or self.route

    def per_s(self, now: float) -> float:
        """Return the tokens per second of late."""
        self._forget(now)
        if len(self._recent) < 2:
            return 0.0
        return (len(self._recent) - 1) / max(1e-3, self._recent[-1] - self._recent[0])

    def mean_per_s(self) -> float:
        """Return the tokens per second from the first to the last."""
        if self.first_at is None or self.last_at <= self.first_at:
            return 0.0
        return (self.num_tokens - 1) / (self.last_at - self.first_at)

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0] < now - WINDOW:
            self._recent.popleft()


def status_text(progress: Progress, names: Names, now: float) -> str:
    """Return the line that stands below an answer while it comes."""
    waited = now - progress.last_at
    if progress.first_at is None:
        pace = f"thinking {waited:.1f} s"
    elif waited > STALL:
        pace = f"no token for {waited:.1f} s: waiting for a server, or for another in its place"
    else:
        pace = f"{progress.per_s(now):.1f} tokens/s"
    parts = [pace]
    if progress.num_failovers:
        is_news = now - progress.failover_at < NEWS
        parts.append(progress.news if is_news else times_text(progress.num_failovers))
    if progress.route:
        parts.append(route_text(progress.route, names))
    return " · ".join(parts)


def summary_text(progress: Progress, names: Names, ending: str) -> str:
    """Return the line that stays below an answer; `ending` says why it ended if it did not by itself."""
    first = "" if progress.first_at is None else f"first after {progress.first_at - progress.began:.1f} s"
    speed = f"{progress.mean_per_s():.1f} tokens/s" if progress.num_tokens > 1 else ""
    failovers = times_text(progress.num_failovers) if progress.num_failovers else ""
    route = route_text(progress.route, names) if progress.route else ""
    parts = (ending, counted(progress.num_tokens, "token"), speed, first, failovers, route)
    return " · ".join(part for part in parts if part)


def route_text(route: tuple[Hop, ...], names: Names) -> str:
    """Return hops as `0:10 ada → 10:30 …k3hQ2x`."""
    return " → ".join(f"{hop.start}:{hop.end} {name_of(hop.peer, names)}" for hop in route)


def name_of(peer: PeerId, names: Names) -> str:
    """Return what a server calls itself, else the end of its peer id."""
    return names.get(peer) or f"…{peer[-6:]}"


def times_text(num_failovers: int) -> str:
    """Return how often hops were replaced, in words."""
    return counted(num_failovers, "fail-over")


def counted(number: int, noun: str) -> str:
    """Return a number and its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _news(before: tuple[Hop, ...], after: tuple[Hop, ...], names: Names) -> str:
    fresh = [hop for hop in after if hop not in before]
    if not fresh:
        return "fail-over: the same servers go on"
    return f"fail-over: {' and '.join(f'{name_of(hop.peer, names)} took over {hop.start}:{hop.end}' for hop in fresh)}"
