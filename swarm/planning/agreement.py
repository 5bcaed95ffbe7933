"""Which servers of a view hold the same checkpoint: those that do not are never mixed in a route.

A record names the fingerprint of the whole checkpoint (config and a sample that every peer can
read) and a digest of each block it serves. Two servers may share a route if their fingerprints
are equal and no block that both serve, or that both are compared with through others, differs.
For each block the digest that most servers announce counts; whoever announces another is out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

from swarm.types import ServerRecord, View


@dataclass(frozen=True, slots=True)
class Agreement:
    """A view split by checkpoint.

    Attributes:
        view: The servers that hold the checkpoint in question.
        others: Servers of the same model name with another checkpoint.
    """

    view: View
    others: tuple[ServerRecord, ...]


def agree(view: View, fingerprint: str | None = None) -> Agreement:
    """Keep the servers that hold one and the same checkpoint.

    Args:
        view: All live records of a model name.
        fingerprint: The checkpoint wanted; None takes the one that most servers announce.
    """
    if fingerprint is None:
        fingerprint = _most_common(Counter(record.fingerprint for record in view.records))
    votes: dict[int, Counter[str]] = defaultdict(Counter)
    for record in view.records:
        if record.fingerprint == fingerprint:
            for block, digest in _digests(record):
                votes[block][digest] += 1
    winners = {block: _most_common(counts) for block, counts in votes.items()}
    kept: list[ServerRecord] = []
    others: list[ServerRecord] = []
    for record in view.records:
        is_same = record.fingerprint == fingerprint and all(winners[b] == digest for b, digest in _digests(record))
        (kept if is_same else others).append(record)
    return Agreement(replace(view, records=tuple(kept)), tuple(others))


def _digests(record: ServerRecord) -> list[tuple[int, str]]:
    """The digests that a record tells: of blocks that a server has not read yet, it leaves them empty."""
    told = zip(range(record.span.start, record.span.end), record.digests, strict=True)
    return [(block, digest) for block, digest in told if digest]


def _most_common(counts: Counter[str]) -> str:
    """The word seen most often; of equals the smallest, so that all peers decide alike."""
    return min(counts, key=lambda word: (-counts[word], word), default="")
