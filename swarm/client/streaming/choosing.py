"""Choosing the next tokens of several texts, each as transformers' `generate` would choose its own.

What is chosen for a text depends on its own logits only: greedy ones take the first maximum, those that sample with
equal warpers are warped together, row by row, and whoever has processors of his own is served alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList
from transformers.generation import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from swarm.errors import UsageError

_ROW_WISE = (TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper)
"""They look at a row's scores only, not at its tokens, and treat each row as if it were alone."""

Key = tuple[tuple[type, tuple[tuple[str, object], ...]], ...]
"""Kinds and settings of warpers."""


@dataclass(slots=True, kw_only=True)
class Choice:
    """How one text goes on, and when it ends.

    Attributes:
        processors: What changes the scores.
        generator: Draws the tokens; None takes the first maximum.
        max_length: Tokens of the whole text, the prompt included.
        end_tokens: The text ends with any of these.
        criteria: What else ends it; asked after each token.
        num_top: How many of the likeliest tokens are told with each; None if not even its own likelihood is.
        warpers: Equal for texts that can be warped together; None for those that cannot.
    """

    processors: LogitsProcessorList
    generator: torch.Generator | None
    max_length: int
    end_tokens: frozenset[int]
    criteria: StoppingCriteriaList
    num_top: int | None = None
    warpers: Key | None = field(init=False)

    def __post_init__(self) -> None:
        is_row_wise = self.generator is not None and all(type(each) in _ROW_WISE for each in self.processors)
        kinds = tuple((type(each), tuple(sorted(vars(each).items()))) for each in self.processors)
        self.warpers = kinds if is_row_wise else None

    @property
    def is_plain(self) -> bool:
        """Whether the first maximum of the logits is taken as they are."""
        return self.generator is None and not len(self.processors)

    def is_over(self, text: Text) -> bool:
        """Whether the text ends with its last token."""
        if len(text.ids) >= self.max_length or text.ids[-1] in self.end_tokens:
            return True
        return bool(self.criteria) and bool(self.criteria(text.as_tensor(), None).all())


class Text:
    """A prompt and what was chosen after it.

    Attributes:
        ids: All tokens, padding of the prompt included: what processors and criteria look at.
        choice: How it goes on.
    """

    __slots__ = ("_tensor", "choice", "ids")

    def __init__(self, ids: Sequence[int], choice: Choice) -> None:
        self.ids = list(ids)
        self.choice = choice
        self._tensor = torch.tensor([self.ids])

    def as_tensor(self) -> Tensor:
        """Return the tokens as (1, S)."""
        if (missing := len(self.ids) - self._tensor.shape[1]) > 0:
            self._tensor = torch.cat([self._tensor, torch.tensor([self.ids[-missing:]])], 1)
        return self._tensor


def choose(texts: Sequence[Text], logits: Tensor) -> list[int | Exception]:
    """Return each text's next token, or what its own processors raised.

    Args:
        texts: At least one.
        logits: (B, V), of each text's last token, in any float dtype.
    """
    chosen: list[int | Exception] = [0] * len(texts)
    for way, rows in _by_way(texts).items():
        own = logits if len(rows) == len(texts) else logits[rows]
        tokens = _WAYS[way[0]]([texts[row] for row in rows], own)
        for row, token in zip(rows, tokens, strict=True):
            chosen[row] = token
    return chosen


def _by_way(texts: Sequence[Text]) -> dict[tuple[str, object], list[int]]:
    ways: dict[tuple[str, object], list[int]] = {}
    for row, text in enumerate(texts):
        choice = text.choice
        if choice.is_plain:
            way: tuple[str, object] = ("greedy", None)
        elif choice.warpers is not None:
            way = ("warped", choice.warpers)
        else:
            way = ("alone", None)
        ways.setdefault(way, []).append(row)
    return ways


def _greedy(texts: Sequence[Text], logits: Tensor) -> Sequence[int]:
    # numpy's argmax is many times faster than torch's on 16-bit floats, and takes the first maximum as well.
    tokens: list[int] = logits.float().numpy().argmax(-1).tolist()
    return tokens


def _warped(texts: Sequence[Text], logits: Tensor) -> Sequence[int | Exception]:
    scores = texts[0].choice.processors(None, logits.to(torch.float32, copy=True))
    probabilities = torch.softmax(scores, -1)  # (B, V)
    return [_drawn(text.choice, probabilities[row : row + 1]) for row, text in enumerate(texts)]


def _alone(texts: Sequence[Text], logits: Tensor) -> Sequence[int | Exception]:
    return [_one(text, logits[row : row + 1]) for row, text in enumerate(texts)]


def _one(text: Text, logits: Tensor) -> int | Exception:
    choice = text.choice
    try:
        scores = choice.processors(text.as_tensor(), logits.to(torch.float32, copy=True))  # (1, V)
        if scores.shape != logits.shape:
            raise UsageError(f"a logits processor returned {tuple(scores.shape)} scores, not {tuple(logits.shape)}")
        if choice.generator is None:
            return int(scores.numpy().argmax(-1)[0])
    except BaseException as error:  # of the user's own code: told to this stream
        return as_exception(error)
    return _drawn(choice, torch.softmax(scores, -1))


def _drawn(choice: Choice, probabilities: Tensor) -> int | Exception:
    try:
        return int(torch.multinomial(probabilities, 1, generator=choice.generator))
    except Exception as error:  # of options, or a hop's numbers, that leave no token: told to this stream
        return error


def as_exception(error: BaseException) -> Exception:
    """Return what a reader can be told: his own SystemExit must not end our thread, nor his."""
    return error if isinstance(error, Exception) else RuntimeError(f"raised while a token was chosen: {error!r}")


_WAYS: dict[str, Callable[[Sequence[Text], Tensor], Sequence[int | Exception]]] = {
    "greedy": _greedy,
    "warped": _warped,
    "alone": _alone,
}


def split_criteria(criteria: StoppingCriteriaList) -> tuple[frozenset[int], int | None, StoppingCriteriaList]:
    """Return the end tokens, the length at which a text ends, and all other criteria."""
    end_tokens: set[int] = set()
    lengths: list[int] = []
    others = StoppingCriteriaList()
    for each in criteria:
        if type(each) is EosTokenCriteria:
            end_tokens |= set(each.eos_token_id.reshape(-1).tolist())
        elif type(each) is MaxLengthCriteria:
            lengths.append(each.max_length)
        else:
            others.append(each)
    return frozenset(end_tokens), min(lengths, default=None), others
