"""Coverage: how much throughput each block has, and which blocks nobody serves."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import accumulate

from swarm.types import PeerId, Reach, ServerRecord, ServerState, Span, View

ROUTABLE = frozenset({ServerState.ONLINE})
"""States that take new sessions."""

EXPECTED = frozenset({ServerState.ONLINE, ServerState.JOINING})
"""States that serve now or soon: what placement counts."""


DIGITS = 6
"""Decimals of a coverage that mean anything."""


def is_routable(record: ServerRecord) -> bool:
    """Whether new sessions may go through this server."""
    return record.state in ROUTABLE and record.reach is not Reach.UNREACHABLE


def coverage(view: View, num_blocks: int, *, states: Container[ServerState] = ROUTABLE) -> tuple[float, ...]:
    """Return, for each block, the decode throughput of all reachable servers that hold it, in tokens/s.

    A server's throughput is that of its whole span: one token through n blocks takes n times
    as long as through one.
    """
    changes = [0.0] * (num_blocks + 1)
    counts = [0] * (num_blocks + 1)
    for record in view.records:
        if record.state in states and record.reach is not Reach.UNREACHABLE and record.span.start < num_blocks:
            share, end = record.decode_per_s / len(record.span), min(record.span.end, num_blocks)
            changes[record.span.start] += share
            changes[end] -= share
            counts[record.span.start] += 1
            counts[end] -= 1
    sums = zip(accumulate(changes[:-1]), accumulate(counts[:-1]), strict=True)
    # Sums and differences of floats leave crumbs, by which equal blocks would differ.
    return tuple(max(0.0, round(amount, DIGITS)) if count else 0.0 for amount, count in sums)


def missing_spans(view: View, span: Span, *, excluded: Container[PeerId] = ()) -> tuple[Span, ...]:
    """Return the maximal runs of blocks within `span` that no routable server holds."""
    held: set[int] = set()
    for record in view.records:
        if is_routable(record) and record.peer not in excluded:
            held.update(range(record.span.start, record.span.end))
    return runs([block for block in range(span.start, span.end) if block not in held])


def format_spans(spans: Iterable[Span]) -> str:
    """Return spans as a person reads them: "0:10, 20:30"."""
    return ", ".join(str(span) for span in spans)


def runs(blocks: Sequence[int]) -> tuple[Span, ...]:
    """Return ascending blocks as maximal spans."""
    found: list[Span] = []
    for block in blocks:
        if found and found[-1].end == block:
            found[-1] = Span(found[-1].start, block + 1)
        else:
            found.append(Span(block, block + 1))
    return tuple(found)
