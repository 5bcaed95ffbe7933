"""Advice: is there a better route, would fewer hops be faster, and does it pay to move a session there?"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace

from swarm.planning.costs import Costs
from swarm.planning.routing import RouteCost, find_route, predict
from swarm.types import Hop, PeerId, Span, View

MIN_GAIN = 0.2
"""Share of a step's time that a move has to save: predictions are no better than that."""

REPAYMENT = 2.0
"""How many times over a move has to repay its replay: the session may end before it is expected to."""

MOVE_COST = 0.2
"""Seconds that opening the new hops and letting go of the old ones takes, beside the replay."""

_DEARER_HOPS = tuple(0.001 * 4**power for power in range(8))
"""Seconds by which hops are made dearer, one after the other, until a route has fewer of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What a route should cost, and what others would, for one decode step.

    Attributes:
        current: The route in use, part by part.
        best: The cheapest route, None if there is none at all; the one in use if no other is cheaper.
        fewer: The cheapest route found that has fewer hops, None if there is none.
    """

    current: RouteCost
    best: RouteCost | None
    fewer: RouteCost | None

    @property
    def saved_by_fewer(self) -> float:
        """Seconds a step that fewer hops would save; 0 if they would not."""
        return max(0.0, self.current.total - self.fewer.total) if self.fewer is not None else 0.0


def advise(hops: tuple[Hop, ...], view: View, costs: Costs, *, excluded: Container[PeerId] = ()) -> Advice:
    """Compare the route in use with what the view offers now; sample a large view first.

    Raises:
        KeyError: A hop's server is not in `view`.
    """
    span = Span(hops[0].start, hops[-1].end)
    current = predict(hops, view, costs)
    best = _route(view, span, costs, costs, excluded)
    if best is not None and best.total >= current.total:
        best = current
    for seconds in _DEARER_HOPS if len(hops) > 1 else ():
        fewer = _route(view, span, replace(costs, hop_overhead=costs.hop_overhead + seconds), costs, excluded)
        if fewer is not None and len(fewer.hops) < len(hops):
            return Advice(current=current, best=best, fewer=fewer)
    return Advice(current=current, best=best, fewer=None)


def worth_moving(
    current: tuple[Hop, ...],
    best: tuple[Hop, ...],
    view: View,
    costs: Costs,
    *,
    tokens_held: int,
    tokens_expected: int,
) -> bool:
    """Whether a running session should leave its route for a better one.

    The saving must be a real share of a step (`MIN_GAIN`), and over the tokens still to come it must repay
    the replay of those held, `REPAYMENT` times.

    Args:
        tokens_held: What the new hops would have to prefill.
        tokens_expected: Decode steps that the session probably still takes.

    Raises:
        KeyError: A hop's server is not in `view`; a route with a server that is gone is not moved but mended.
    """
    now, then = predict(current, view, costs).total, predict(best, view, costs).total
    if now - then < MIN_GAIN * now:
        return False
    replay = replay_seconds(current, best, view, costs, tokens=tokens_held)
    return (now - then) * tokens_expected >= REPAYMENT * (MOVE_COST + replay)


def replay_seconds(current: tuple[Hop, ...], best: tuple[Hop, ...], view: View, costs: Costs, *, tokens: int) -> float:
    """Return how long the hops of `best` that are not in `current` prefill `tokens`, one after the other.

    Chunks overlap in truth, so that this is the most it takes on idle servers.
    """
    records = {record.peer: record for record in view.records}
    seconds = 0.0
    for index, hop in enumerate(best):
        if hop not in current:
            server = records[hop.peer]
            arrival = costs.move(best[index - 1].peer, hop.peer) if index else costs.leg(server)
            compute = tokens * (hop.end - hop.start) / max(server.prefill_per_s, 1e-9)
            seconds += arrival + costs.queue(server) + compute
    return seconds


def _route(view: View, span: Span, searched: Costs, told: Costs, excluded: Container[PeerId]) -> RouteCost | None:
    hops = find_route(view, span, searched, excluded=excluded)
    return None if hops is None else predict(hops, view, told)
