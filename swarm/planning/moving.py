"""Moving: when a server should leave its span for another.

Two causes, and no other:

- **A hole.** Some block has, and will have, no server, and we would fill more of the holes elsewhere.
- **A weak spot.** The weakest block of the swarm has less than `WEAK_SHARE` of what each would have if all
  work could be shared out evenly, and we can leave blocks that stay better off without us, by `MARGIN`, than
  that one is. Only for a server that has been where it is for a lease: that outlives the cost of loading.

Both compare blocks as they would be without us, so that having moved we would not want to go back.

**Coverage never drops by a move.** A server leaves only blocks that another one holds that is online, kept
its record fresh and does not intend to leave. Two must not rely on each other: whoever wants to move says so
first (`next_span`), waits until the others can have seen it, and looks again. Then all who want to move are gone
through in the order of (since, peer): those before us count as gone, those after us have to count us as gone.
The wait must be twice as long as a record takes to be stored and read; `since` is later than that of every wish
that its server saw before, so that clocks that differ do no harm.

If there is a hole and nobody can fill it so, no session can run through the whole model anyway; then a server
may leave blocks uncovered if fewer are uncovered afterwards.
"""

from __future__ import annotations

from swarm.planning.outlook import Levels, Outlook
from swarm.planning.placement import neediest
from swarm.types import ServerRecord, Span

WEAK_SHARE = 0.9
"""Of the fair level: below it, servers move to the weakest block. The aim is 0.8 at any time."""

MARGIN = 1.15
"""How many times as well off as the weakest block those must stay that are left for it."""


def next_span(
    outlook: Outlook, mine: ServerRecord, *, is_settled: bool = True, is_desperate: bool = False
) -> Span | None:
    """Return the span that we should want instead of ours, or None to stay.

    Args:
        mine: Our record as we announced it, online.
        is_settled: Whether we have held our span for a lease; before it only holes move us.
        is_desperate: Whether a hole has been there for so long that those who could fill it safely do not.
    """
    levels = outlook.levels
    if levels.num_holes == 0 and (not is_settled or min(levels.expected) >= WEAK_SHARE * levels.fair):
        return None
    return _better(outlook, outlook.without(mine.peer), mine, is_settled=is_settled, is_desperate=is_desperate)


def may_move(outlook: Outlook, mine: ServerRecord, *, is_desperate: bool = False) -> bool:
    """Whether the wish that `mine` announces as its `next_span` may be carried out, it being our turn.

    If not, give it up, and look again later.

    Args:
        outlook: Looked up after our wish was stored, and those of others can have been.
    """
    levels = outlook.at_turn(mine)
    return mine.next_span is not None and mine.next_span == _better(
        outlook, levels, mine, is_settled=True, is_desperate=is_desperate, wanted=mine.next_span
    )


def _better(
    outlook: Outlook,
    levels: Levels,
    mine: ServerRecord,
    *,
    is_settled: bool,
    is_desperate: bool,
    wanted: Span | None = None,
) -> Span | None:
    """The window that needs us more than our span does, both without us; `wanted` if that is one."""
    span = mine.span
    target = neediest(levels, len(span)) if wanted is None else wanted
    if target == span:
        return None
    is_safe = min(levels.num_held[span.start : span.end]) > 0
    filled, opened = _num_holes(levels, target), _num_holes(levels, span)
    if filled > opened:
        has_volunteer = not is_desperate and _has_volunteer(outlook, levels, mine)
        return target if is_safe or (_is_broken(outlook, levels) and not has_volunteer) else None
    if not is_settled or not is_safe or filled < opened:
        return None
    left = [levels.expected[block] for block in range(span.start, span.end) if block not in target]
    weakest = min(levels.expected[target.start : target.end])
    is_weak = weakest < WEAK_SHARE * (levels.total + outlook.speed_of(mine)) / outlook.num_blocks
    return target if is_weak and left and min(left) >= MARGIN * weakest else None


def _num_holes(levels: Levels, span: Span) -> int:
    return levels.num_expected[span.start : span.end].count(0)


def _is_broken(outlook: Outlook, levels: Levels) -> bool:
    """Whether some block has no server now, and will have none."""
    return any(is_bare and count == 0 for is_bare, count in zip(outlook.bare, levels.num_expected, strict=True))


def _has_volunteer(outlook: Outlook, levels: Levels, mine: ServerRecord) -> bool:
    """Whether another server could leave its whole span to others."""
    thin = [0]
    for count in levels.num_held:
        thin.append(thin[-1] + (count < 2))
    last = len(thin) - 1  # a stranger's span may lie beyond the model
    return any(
        outlook.is_held(r) and r.peer != mine.peer and thin[min(r.span.end, last)] == thin[min(r.span.start, last)]
        for r in outlook.records.values()
    )
