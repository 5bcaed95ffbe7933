"""The reference, plain transformers on the same files, and the comparer that tells ties from faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.swarm.prompts import PROMPTS

TIE = 2e-4
"""Logits may differ by so much: transformers differs from itself by 6e-5, chunked or padded otherwise."""

NEW_TOKENS = 64

FP32 = ("--dtype", "float32", "--threads", "1")
"""Flags of servers whose tokens are compared: plain weights, for a split changes what 16 or 8 bits round to."""


@dataclass
class Reference:
    """A local model; what it generates for the prompts is computed once.

    Attributes:
        model: transformers' own.
        tokenizer: Of the model.
        ties: A line for each tie that `same` met.
    """

    model: Any
    tokenizer: Any
    ties: list[str] = field(default_factory=list)
    _made: dict[int | str, Tensor] = field(default_factory=dict)

    def ids(self, text: str) -> Tensor:
        """(1, S) the tokens of `text`."""
        return self.tokenizer(text, return_tensors="pt").input_ids

    def greedy(self, prompt: int) -> Tensor:
        """(1, S + 64) prompt number `prompt` and what the model says next."""
        ids = self.ids(PROMPTS[prompt])
        return self.remembered(prompt, lambda: self.model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False))

    def remembered(self, name: int | str, make: Callable[[], Tensor]) -> Tensor:
        """Return what `make` made when `name` was asked for first."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def logits(self, ids: Tensor) -> Tensor:
        """(B, S, V) of one forward pass."""
        with torch.no_grad():
            return self.model(ids).logits

    def same(self, ours: Tensor, theirs: Tensor) -> int:
        """Check that two generated batches are the same tokens but for ties; return how many rows tied.

        A row that differs is a tie if at its first difference the reference itself hardly prefers one token over the
        other; what follows differs for that reason and is not compared.
        """
        assert len(ours) == len(theirs)
        return sum(self._is_tie(mine, other) for mine, other in zip(ours, theirs, strict=True))

    def _is_tie(self, ours: Tensor, theirs: Tensor) -> bool:
        if torch.equal(ours, theirs):
            return False
        length = min(len(ours), len(theirs))
        differing = (ours[:length] != theirs[:length]).nonzero()
        assert len(differing), f"{len(ours)} tokens, the reference has {len(theirs)}, all in common equal"
        first = int(differing[0])
        # Padding on the left would shift the positions of a plain forward pass.
        start = int((theirs != self.model.config.pad_token_id).nonzero()[0])
        logits = self.logits(theirs[None, start:first])[0, -1]
        best, second = logits.topk(2).values.tolist()
        chosen = logits[int(ours[first])].item()
        tokens = f"token {first}: {int(ours[first])}, not {int(theirs[first])}"
        told = f"{tokens}; gap {best - chosen:.1e}, top-2 {best - second:.1e}"
        assert best - second < TIE and best - chosen < TIE, told
        self.ties.append(told)
        print(f"tie at {told}")
        return True
