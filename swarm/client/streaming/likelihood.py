"""How likely the model found a token, and which others it found likelier; computed for those who asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

MAX_TOP = 20
"""Likeliest tokens that are told at most: what the OpenAI API allows."""


class Likelihood(NamedTuple):
    """Of one token that was chosen: natural logarithms of the model's own probabilities.

    They are taken before temperature, penalties and biases change anything, so the chosen one need not be among the
    likeliest.

    Attributes:
        logprob: Of the token itself.
        top: The likeliest tokens, with theirs, the first one first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


def likelihoods(
    logits: Tensor, tokens: Sequence[int | Exception], counts: Sequence[int | None]
) -> dict[int, Likelihood]:
    """Return, by its row, what the model says of each token for which that was asked.

    Args:
        logits: (B, V), as the model gave them, in any float dtype.
        tokens: What was chosen in each row, or why nothing was.
        counts: How many of the likeliest are wanted in each row; None: nothing is.
    """
    both = zip(tokens, counts, strict=True)
    chosen = {row: token for row, (token, count) in enumerate(both) if count is not None and isinstance(token, int)}
    rows = list(chosen)
    if not rows:
        return {}
    logprobs = (logits if len(rows) == len(tokens) else logits[rows]).float().log_softmax(-1)
    most = max(counts[row] or 0 for row in rows)
    values, ids = (part.tolist() for part in logprobs.topk(most, -1))
    return {
        row: Likelihood(
            float(logprobs[index, token]), tuple(zip(ids[index], values[index], strict=True))[: counts[row]]
        )
        for index, (row, token) in enumerate(chosen.items())
    }
