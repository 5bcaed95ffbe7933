"""From views to what people are shown; pure. Who is left out of routes is decided by `swarm.planning`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, groupby

from swarm.monitor.alerts import alerts_of
from swarm.monitor.state import Listed, ModelState, Standing, Stretch, SwarmState
from swarm.planning import agree, coverage
from swarm.planning.coverage import is_routable
from swarm.types import Reach, ServerRecord, ServerState, Span, View


def survey(views: Sequence[View], *, now: float) -> SwarmState:
    """Return what a swarm looks like; records that have expired by `now` (Unix time) are not there any more."""
    living = [replace(v, records=tuple(r for r in v.records if r.expires_at > now)) for v in views]
    models = [_model(view) for view in living if view.records]
    models.sort(key=lambda model: (-len(model.servers), model.name))
    return SwarmState(taken_at=max((view.taken_at for view in views), default=now), models=tuple(models))


def deserted(model: ModelState) -> ModelState:
    """Return a model that had servers and has none any more."""
    return _told(replace(model, servers=(), stretches=(Stretch(Span(0, model.num_blocks), 0, 0.0, 0),)))


def _model(view: View) -> ModelState:
    agreement = agree(view)
    # One checkpoint has one number of blocks: who tells another is wrong about more than that.
    num_blocks = min(counts := Counter(r.num_blocks for r in agreement.view.records), key=lambda n: (-counts[n], n))
    kept = tuple(record for record in agreement.view.records if record.num_blocks == num_blocks)
    others = (*agreement.others, *(record for record in agreement.view.records if record.num_blocks != num_blocks))
    listed = [Listed(record, _standing(record)) for record in kept]
    listed += [Listed(record, Standing.OTHER) for record in others]
    listed.sort(key=lambda each: (each.record.span.start, -len(each.record.span), each.record.peer))
    return _told(
        ModelState(
            name=view.model,
            fingerprint=kept[0].fingerprint,
            num_blocks=num_blocks,
            servers=tuple(listed),
            stretches=_stretches(replace(view, records=kept), num_blocks),
        )
    )


def _told(model: ModelState) -> ModelState:
    return replace(model, alerts=alerts_of(model))


def _standing(record: ServerRecord) -> Standing:
    if record.reach is Reach.UNREACHABLE:
        return Standing.UNREACHABLE
    if is_routable(record):
        return Standing.SERVING
    return Standing.JOINING if record.state is ServerState.JOINING else Standing.LEAVING


def _stretches(view: View, num_blocks: int) -> tuple[Stretch, ...]:
    rates = coverage(view, num_blocks)
    changes: list[tuple[int, int]] = [(0, 0) for _ in range(num_blocks + 1)]
    for record in filter(is_routable, view.records):
        for block, sign in ((record.span.start, 1), (record.span.end, -1)):
            servers, pages = changes[block]
            changes[block] = (servers + sign, pages + sign * record.free_pages)
    sums = accumulate(changes[:-1], lambda one, other: (one[0] + other[0], one[1] + other[1]))
    blocks = [(servers, rate, pages) for (servers, pages), rate in zip(sums, rates, strict=True)]
    found: list[Stretch] = []
    for (servers, rate, pages), run in groupby(blocks):
        start = found[-1].span.end if found else 0
        found.append(Stretch(Span(start, start + sum(1 for _ in run)), servers, rate, pages))
    return tuple(found)
