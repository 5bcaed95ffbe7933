"""Coverage: how much throughput each block has, and which blocks nobody serves."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from swarm.types import PeerId, ServerRecord, ServerState, Span, View

ROUTABLE = frozenset({ServerState.ONLINE})
"""States that take new sessions."""

EXPECTED = frozenset({ServerState.ONLINE, ServerState.JOINING})
"""States that serve now or soon: what placement counts."""


def coverage(view: View, num_blocks: int, *, states: Container[ServerState] = ROUTABLE) -> tuple[float, ...]:
    """Return, for each block, the decode throughput of all servers that hold it, in tokens/s.

    A server's throughput is that of its whole span: one token through n blocks takes n times
    as long as through one.
    """
    per_block = [0.0] * num_blocks
    for record in view.records:
        if record.state in states:
            for block in range(record.span.start, min(record.span.end, num_blocks)):
                per_block[block] += record.decode_per_s / len(record.span)
    return tuple(per_block)


def missing_spans(view: View, span: Span, *, excluded: Container[PeerId] = ()) -> tuple[Span, ...]:
    """Return the maximal runs of blocks within `span` that no routable server holds."""
    held: set[int] = set()
    for record in _routable(view.records, excluded):
        held.update(range(record.span.start, record.span.end))
    return _runs([block for block in range(span.start, span.end) if block not in held])


def format_spans(spans: Iterable[Span]) -> str:
    """Return spans as a person reads them: "0:10, 20:30"."""
    return ", ".join(str(span) for span in spans)


def _routable(records: Iterable[ServerRecord], excluded: Container[PeerId]) -> Iterable[ServerRecord]:
    return (record for record in records if record.state in ROUTABLE and record.peer not in excluded)


def _runs(blocks: Sequence[int]) -> tuple[Span, ...]:
    runs: list[Span] = []
    for block in blocks:
        if runs and runs[-1].end == block:
            runs[-1] = Span(runs[-1].start, block + 1)
        else:
            runs.append(Span(block, block + 1))
    return tuple(runs)
