"""Where the time of a step goes: what the hops say of themselves, and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from swarm.planning import Advice
from swarm.types import Hop
from swarm.wire import Timing

WORTH_TELLING = 0.05
"""Share of a step that a route must save to be told of."""


@dataclass(frozen=True, slots=True)
class StepTiming:
    """One step as the client saw it.

    Attributes:
        tokens: Tokens sent in it.
        seconds: From handing it to the first channel until its result was here.
        hops: What each hop says it spent.
    """

    tokens: int
    seconds: float
    hops: tuple[Timing, ...]

    @property
    def compute(self) -> float:
        """Seconds that all hops together spent in their blocks."""
        return sum(hop.compute for hop in self.hops) / 1e6

    @property
    def network(self) -> float:
        """Seconds that no hop accounts for: the wire, the daemons, waking up."""
        return max(0.0, self.seconds - sum(hop.total for hop in self.hops) / 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class HopTimes:
    """Means of one hop over typical decode steps, in seconds.

    Attributes:
        hop: The blocks and who runs them.
        queue: Waiting for the compute thread.
        compute: In the blocks.
        handling: Between the network and the engine, both ways.
        network: From the hop before, or from us, to it: its share of all legs by the round trips that are known.
    """

    hop: Hop
    queue: float
    compute: float
    handling: float
    network: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Means over typical recent steps, in seconds; printing it gives a table.

    Typical is the middle half of the steps by their duration: outliers do not count, and, unlike
    medians, the means of the parts add up to the mean of the whole.

    Attributes:
        hops: In the order of the route.
        network: All legs of the route together, the client's own loop included.
        answer: Of it, the leg from the last hop back to us.
        step: A whole step: what the hops take, their legs, and the answer sum up to it.
        num_steps: How many decode steps the typical ones were chosen from.
        num_failovers: How often hops were replaced: they were lost, left, or others had become better.
        advice: What would be faster, in words; empty if nothing is.
    """

    hops: tuple[HopTimes, ...]
    network: float
    step: float
    num_steps: int
    answer: float = 0.0
    num_failovers: int = 0
    advice: str = ""

    @property
    def overhead_per_hop(self) -> float:
        """What a hop costs beside its compute: transport and scheduling, in seconds."""
        compute = sum(times.compute for times in self.hops)
        return (self.step - compute) / max(1, len(self.hops))

    def __str__(self) -> str:
        lines = [f"{'blocks':>9}  {'peer':<12} {'network':>9} {'queue':>9} {'compute':>9} {'handling':>9}"]
        for times in self.hops:
            hop = times.hop
            lines.append(
                f"{f'{hop.start}:{hop.end}':>9}  …{hop.peer[-10:]:<11} "
                f"{_ms(times.network)} {_ms(times.queue)} {_ms(times.compute)} {_ms(times.handling)}"
            )
        lines.append(f"{'back':>9}  {'':<12} {_ms(self.answer)}")
        lines.append(f"network {_ms(self.network)} · a step {_ms(self.step)} · middle half of {self.num_steps} steps")
        if self.num_failovers:
            lines.append(f"hops were replaced {self.num_failovers} time(s)")
        if self.advice:
            lines.append(self.advice)
        return "\n".join(lines)


def explain(
    hops: Sequence[Hop],
    steps: Sequence[StepTiming],
    *,
    legs: Sequence[float] = (),
    num_failovers: int = 0,
    advice: str = "",
) -> Explanation:
    """Return the means over the typical of the smallest steps (the decode ones) among `steps`; zeros without any.

    Args:
        legs: Seconds that each leg of the route should take, the way back included: by these the network's time is
            shared out; equally without them.
        num_failovers: See `Explanation`.
        advice: See `Explanation`.
    """
    fewest = min((step.tokens for step in steps), default=0)
    decode = [step for step in steps if step.tokens == fewest and len(step.hops) == len(hops)]
    if not decode:
        empty = tuple(HopTimes(hop=hop, queue=0.0, compute=0.0, handling=0.0) for hop in hops)
        return Explanation(hops=empty, network=0.0, step=0.0, num_steps=0, num_failovers=num_failovers, advice=advice)
    typical = _middle_half(decode)
    network = fmean(step.network for step in typical)
    weights = list(legs) if len(legs) == len(hops) + 1 and sum(legs) > 0 else [1.0] * (len(hops) + 1)
    shares = [network * weight / sum(weights) for weight in weights]
    times = tuple(
        replace(_hop_times(hop, [step.hops[index] for step in typical]), network=shares[index])
        for index, hop in enumerate(hops)
    )
    return Explanation(
        hops=times,
        network=network,
        step=fmean(step.seconds for step in typical),
        num_steps=len(decode),
        answer=shares[-1],
        num_failovers=num_failovers,
        advice=advice,
    )


def advice_text(advice: Advice) -> str:
    """Return in a line which route would be faster, by how much, and whether it has fewer hops; empty if none is."""
    current, best, fewer = advice.current, advice.best, advice.fewer
    if fewer is not None and fewer.total < (1 - WORTH_TELLING) * current.total:
        found, how = fewer, f"{len(fewer.hops)} instead of {len(current.hops)} hops"
    elif best is not None and best.total < (1 - WORTH_TELLING) * current.total:
        found, how = best, "other hops"
    else:
        return ""
    route = " -> ".join(str(part.hop) for part in found.hops)
    return f"{how} should be faster: {_ms(found.total).strip()} a step, not {_ms(current.total).strip()}, by {route}"


def _middle_half(steps: list[StepTiming]) -> list[StepTiming]:
    cut = len(steps) // 4
    return sorted(steps, key=lambda step: step.seconds)[cut : len(steps) - cut]


def _hop_times(hop: Hop, timings: list[Timing]) -> HopTimes:
    return HopTimes(
        hop=hop,
        queue=fmean(timing.queue for timing in timings) / 1e6,
        compute=fmean(timing.compute for timing in timings) / 1e6,
        handling=fmean(timing.total - timing.queue - timing.compute for timing in timings) / 1e6,
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:6.2f} ms"
