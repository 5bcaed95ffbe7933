"""Placement: which span a server should serve, given what the others serve.

A first rule (after Petals, arXiv:2209.01188, section 3.2): of all windows of our size take the
one whose worst-covered blocks are worst, comparing the sorted coverages; of equal windows the
first. It fills gaps before it doubles anything.
"""

from __future__ import annotations

from dataclasses import replace

from swarm.planning.coverage import EXPECTED, coverage
from swarm.types import PeerId, Span, View


def choose_span(view: View, *, num_blocks: int, size: int, myself: PeerId | None = None) -> Span:
    """Return the span of `size` blocks that the swarm needs most.

    Args:
        view: Live records of the model; servers that are joining count as if they served.
        num_blocks: Blocks of the whole model.
        size: Blocks that we can hold; more than the model has means all of it.
        myself: Our own record, left from an earlier run, is not counted.
    """
    size = min(size, num_blocks)
    others = replace(view, records=tuple(record for record in view.records if record.peer != myself))
    per_block = coverage(others, num_blocks, states=EXPECTED)
    start = min(range(num_blocks - size + 1), key=lambda first: (sorted(per_block[first : first + size]), first))
    return Span(start, start + size)
