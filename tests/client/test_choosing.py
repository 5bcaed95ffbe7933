"""Tokens are chosen for many texts at once as transformers would choose them one by one, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList
from transformers.generation import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from swarm.client.streaming.choosing import Choice, Text, choose, split_criteria

VOCABULARY = 49152
LOGITS = 3 * torch.randn(12, VOCABULARY, generator=torch.Generator().manual_seed(0))


def choice(*processors: Any, seed: int | None = None, **settings: Any) -> Choice:
    return Choice(
        processors=LogitsProcessorList(processors),
        generator=None if seed is None else torch.Generator().manual_seed(seed),
        **{"max_length": 100, "end_tokens": frozenset(), "criteria": StoppingCriteriaList(), **settings},
    )


def as_generate(text: Text, logits: Tensor, seed: int | None) -> int:
    """What `GenerationMixin._sample` does with the last logits (1, V)."""
    scores = text.choice.processors(text.as_tensor(), logits.to(copy=True, dtype=torch.float32))
    if seed is None:
        return int(torch.argmax(scores, dim=-1))
    torch.manual_seed(seed)
    return int(torch.multinomial(torch.nn.functional.softmax(scores, dim=-1), num_samples=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy_texts_take_the_first_maximum_as_torch_does(dtype: torch.dtype) -> None:
    logits = LOGITS.to(dtype)
    logits[3, [7, 99, 40000]] = logits[3].max() + 1  # ties
    logits[4] = 0
    texts = [Text([1], choice()) for _ in range(12)]
    assert choose(texts, logits) == torch.argmax(logits.float(), dim=-1).tolist()
    assert choose(texts, logits)[3:5] == [7, 0]


WARPERS: dict[str, list[Any]] = {
    "none": [],
    "temperature": [TemperatureLogitsWarper(0.7)],
    "top-k": [TopKLogitsWarper(50)],
    "top-p": [TemperatureLogitsWarper(1.3), TopPLogitsWarper(0.9)],
    "min-p": [TopKLogitsWarper(200), MinPLogitsWarper(0.05)],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("warpers", WARPERS.values(), ids=WARPERS.keys())
def test_texts_that_sample_alike_are_warped_together_with_the_bits_of_one_alone(
    warpers: list[Any], dtype: torch.dtype
) -> None:
    logits = LOGITS.to(dtype)  # 16 bits have ties at every threshold
    texts = [Text([1], choice(*warpers, seed=seed)) for seed in range(12)]
    assert len({text.choice.warpers for text in texts}) == 1 and texts[0].choice.warpers is not None
    together = choose(texts, logits)
    alone = [as_generate(text, logits[row : row + 1], row) for row, text in enumerate(texts)]
    assert together == alone
    warped = texts[0].choice.processors(None, logits.float())
    assert all(
        torch.equal(warped[row : row + 1], texts[0].choice.processors(None, logits[row : row + 1].float()))
        for row in range(12)
    )


def test_texts_of_all_kinds_are_chosen_for_side_by_side() -> None:
    ids = LOGITS.argmax(-1).tolist()
    penalty = RepetitionPenaltyLogitsProcessor(5.0)
    kinds: list[tuple[Choice, int | None]] = [
        (choice(), None),
        (choice(TopKLogitsWarper(5), seed=1), 1),
        (choice(penalty), None),
        (choice(TopKLogitsWarper(9), seed=3), 3),
        (choice(penalty, TopKLogitsWarper(5), seed=4), 4),
        (choice(TopKLogitsWarper(5), seed=5), 5),
    ]
    texts = [Text([ids[row]], own) for row, (own, _) in enumerate(kinds)]
    chosen = choose(texts, LOGITS[:6])
    expected = [as_generate(text, LOGITS[row : row + 1], kinds[row][1]) for row, text in enumerate(texts)]
    assert chosen == expected
    assert chosen[0] == ids[0] and chosen[2] != ids[2], "the penalty must have mattered"


def test_options_that_leave_no_token_are_told_to_their_text_alone() -> None:
    def nothing(input_ids: Tensor, scores: Tensor) -> Tensor:
        return torch.full_like(scores, torch.nan)

    chosen = choose([Text([1], choice(nothing, seed=0)), Text([1], choice())], LOGITS[:2])
    assert isinstance(chosen[0], RuntimeError) and chosen[1] == int(LOGITS[1].argmax())


def test_a_temperature_too_small_to_divide_by_is_told_to_those_who_asked_for_it() -> None:
    cold = TemperatureLogitsWarper(1e-40)
    texts = [Text([1], choice(cold, seed=0)), Text([1], choice()), Text([1], choice(cold, seed=1))]
    chosen = choose(texts, LOGITS[:3])
    assert isinstance(chosen[0], RuntimeError) and isinstance(chosen[2], RuntimeError)
    assert chosen[1] == int(LOGITS[1].argmax())


def test_criteria_that_are_known_become_numbers_and_the_others_are_asked() -> None:
    others = MaxTimeCriteria(max_time=1000.0)
    criteria = StoppingCriteriaList([EosTokenCriteria(eos_token_id=[5, 6]), MaxLengthCriteria(max_length=9), others])
    ends, length, rest = split_criteria(criteria)
    assert (ends, length, list(rest)) == (frozenset({5, 6}), 9, [others])


def test_a_text_is_over_at_its_length_an_end_token_or_what_its_user_says() -> None:
    def says(input_ids: Tensor, scores: object) -> Tensor:
        return torch.tensor([input_ids.tolist() == [[1, 2, 3]]])

    own = choice(max_length=5, end_tokens=frozenset({9}), criteria=StoppingCriteriaList([says]))
    overs = [own.is_over(Text(ids, own)) for ids in ([1, 2], [1, 9], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5])]
    assert overs == [False, True, True, False, True]


def test_a_text_that_grew_is_the_same_tensor() -> None:
    text = Text([4, 5], choice())
    assert text.as_tensor().tolist() == [[4, 5]]
    text.ids += [6, 7]
    assert text.as_tensor().tolist() == [[4, 5, 6, 7]]
