"""The tokens of a batch's rows, padding and embeddings among them."""

from __future__ import annotations

import torch
from torch import Tensor

from swarm.wire import Row

UNKNOWN = -1
"""Stands for a token that was given as an embedding."""


class Texts:
    """What the rows hold after a step.

    Attributes:
        ids: (B, S), with `UNKNOWN` for embeddings.
        valid: (B, S) which of them are real.
    """

    def __init__(self, ids: Tensor, valid: Tensor) -> None:
        self.ids = ids
        self.valid = valid
        self._known: dict[int, list[int]] = {}

    def of(self, row: int) -> list[int]:
        """Return a row's real tokens."""
        if row not in self._known:
            self._known[row] = self.ids[row][self.valid[row]].tolist()
        return self._known[row]

    def are_known(self, rows: list[Row]) -> bool:
        """Whether none of these rows was given as embeddings."""
        return not any(UNKNOWN in self.of(row.sequence) for row in rows)


def first_equal_rows(ids: Tensor, embeds: Tensor, valid: Tensor) -> list[int]:
    """Return for each row the first one that equals it: beams and repeated prompts are prefilled once."""
    first: list[int] = []
    for row in range(len(embeds)):
        equal = (
            other
            for other in range(row)
            if first[other] == other
            and torch.equal(valid[row], valid[other])
            and torch.equal(ids[row], ids[other])
            and torch.equal(embeds[row], embeds[other])
        )
        first.append(next(equal, row))
    return first
