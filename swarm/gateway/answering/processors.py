"""What the OpenAI API does to logits and transformers' options do not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import LogitsProcessor


class AnswerPenalties(LogitsProcessor):
    """Takes off the logits of tokens that the answer has already; those of the prompt do not count."""

    def __init__(self, prompt_length: int, *, frequency: float, presence: float) -> None:
        self._prompt_length = prompt_length
        self._frequency = frequency
        self._presence = presence

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return new scores (1, V)."""
        tokens, counts = torch.unique(input_ids[0, self._prompt_length :], return_counts=True)
        penalised = scores.clone()
        penalised[0, tokens] -= self._frequency * counts + self._presence
        return penalised


class Biases(LogitsProcessor):
    """Adds to the logits of some tokens."""

    def __init__(self, biases: Mapping[int, float]) -> None:
        self._tokens = torch.tensor(list(biases))
        self._biases = torch.tensor(list(biases.values()))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return new scores (1, V)."""
        biased = scores.clone()
        biased[0, self._tokens] += self._biases
        return biased
