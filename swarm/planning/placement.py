"""Placement: which span a server should serve, given what the others serve.

The rule (after Petals, arXiv:2209.01188, section 3.2): of all windows of our size take the one whose
worst-covered blocks are worst, comparing the sorted coverages; of equal windows the first. It fills holes
before it doubles anything.

**Claims.** Servers that start at the same moment would all choose the same window. So each announces its claim
(JOINING, with its span) before it loads, waits until the others' claims can be seen, and looks again. All who
claim are then placed one after another in the order of (since, peer), by everybody alike: `settle` says where
that leaves oneself. A claim that is about as good as the best of its turn is kept.
"""

from __future__ import annotations

from swarm.planning.outlook import Levels, Outlook, turn
from swarm.types import PeerId, ServerRecord, ServerState, Span, View

CLAIM_LEASE = 15.0
"""Seconds for which a claim may still change: some looks. Whoever joins for longer has begun to load."""

MAX_CLAIMS = 256
"""Claims that are gone through again; of more at once the latest count as they are announced."""

NEARLY = 1.1
"""A claim is kept whose worst block has at most so many times what the worst block of the best window has."""

_ANY_TTL = 60.0


def choose_span(view: View, *, num_blocks: int, size: int, myself: PeerId | None = None) -> Span:
    """Return the span of `size` blocks that the swarm needs most.

    Args:
        view: Live records of the model; servers that are joining count as if they served, and those that move
            as if they had.
        num_blocks: Blocks of the whole model.
        size: Blocks that we can hold; more than the model has means all of it.
        myself: Our own record, left from an earlier run, is not counted.
    """
    outlook = Outlook.of(view, num_blocks=num_blocks, ttl=_ANY_TTL)  # what others hold now does not matter here
    return neediest(outlook.levels if myself is None else outlook.without(myself), size)


def neediest(levels: Levels, size: int) -> Span:
    """Return the window of `size` blocks, or of all, whose worst-covered blocks are worst."""
    expected = levels.expected
    size = min(size, len(expected))
    start = min(range(len(expected) - size + 1), key=lambda first: (sorted(expected[first : first + size]), first))
    return Span(start, start + size)


def settle(outlook: Outlook, mine: ServerRecord) -> Span:
    """Return the span that is ours once all claims of the moment are in order: `mine.span` if the claim stands.

    Args:
        outlook: Looked up after our claim was stored, and the others' can have been.
        mine: Our claim as we announced it.
    """
    levels = outlook.without(mine.peer)
    claims = [r for r in outlook.records.values() if _is_open(r, outlook.taken_at) and r.peer != mine.peer]
    rivals = sorted((r for r in claims if turn(r) < turn(mine)), key=turn)[:MAX_CLAIMS]
    for record in (*rivals, *(r for r in claims if turn(r) > turn(mine))):
        levels.expect(record.span, outlook.speed_of(record), -1)
    for record in rivals:
        levels.expect(_placed(levels, record), outlook.speed_of(record))
    return _placed(levels, mine)


def _is_open(record: ServerRecord, now: float) -> bool:
    return record.state is ServerState.JOINING and now - record.since < CLAIM_LEASE


def _placed(levels: Levels, claim: ServerRecord) -> Span:
    """The best window for `claim`, or the one claimed if that is about as good."""
    best = neediest(levels, len(claim.span))
    wanted, offered = (_need(levels, span) for span in (claim.span, best))
    is_kept = wanted[0] == offered[0] and wanted[1] <= NEARLY * offered[1]
    return claim.span if is_kept else best


def _need(levels: Levels, span: Span) -> tuple[int, float]:
    """How many of its blocks have nobody, and the tokens/s of the worst of the others."""
    num_holes = levels.num_expected[span.start : span.end].count(0)
    return num_holes, min((each for each in levels.expected[span.start : span.end] if each > 0), default=0.0)
