"""All that transformers' `generate` and `forward` take works over the swarm, with the same results."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
)

from swarm.client import SwarmForCausalLM
from tests.builders import tiny_llama
from tests.swarm.prompts import PROMPTS
from tests.swarm.reference import TIE, Reference

pytestmark = pytest.mark.slow

GREEDY: dict[str, Any] = {"max_new_tokens": 16, "do_sample": False}


def test_an_assistant_model_changes_no_token(model: SwarmForCausalLM, reference: Reference) -> None:
    ids = reference.ids(PROMPTS[0])
    expected = reference.model.generate(ids, **GREEDY)
    # With the reference itself as assistant nearly all drafts are accepted, ...
    assert reference.same(model.generate(ids, assistant_model=reference.model, **GREEDY), expected) == 0


def test_an_assistant_that_is_always_wrong_changes_no_token(model: SwarmForCausalLM, reference: Reference) -> None:
    config = reference.model.config
    assistant = tiny_llama(
        vocab_size=config.vocab_size, bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=2
    )
    ids = reference.ids(PROMPTS[1])
    expected = reference.model.generate(ids, **GREEDY)
    # ... and with random weights none: each round rolls back.
    assert reference.same(model.generate(ids, assistant_model=assistant, **GREEDY), expected) == 0


def test_prompt_lookup_changes_no_token_and_saves_steps(model: SwarmForCausalLM, reference: Reference) -> None:
    ids = reference.ids("red, green, blue, red, green, blue, red, green, blue, red, green,")
    expected = reference.model.generate(ids, **GREEDY)
    cache = model.new_cache()
    ours = model.generate(ids, prompt_lookup_num_tokens=4, past_key_values=cache, **GREEDY)
    assert reference.same(ours, expected) == 0
    assert cache.session is not None
    num_new = expected.shape[1] - ids.shape[1]
    print(f"prompt lookup: {num_new} tokens in {cache.session.num_results} steps")
    assert cache.session.num_results < num_new


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 3},
        {"min_new_tokens": 16, "bad_words_ids": [[28], [30]]},
        {"output_logits": True, "output_scores": True, "return_dict_in_generate": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_generate_work(options: dict[str, Any], model: SwarmForCausalLM, reference: Reference) -> None:
    ids = reference.ids(PROMPTS[12])
    ours = model.generate(ids, **GREEDY, **options)
    expected = reference.model.generate(ids, **GREEDY, **options)
    if "output_logits" in options:
        assert torch.equal(ours.sequences, expected.sequences)
        for mine, theirs in zip(ours.logits, expected.logits, strict=True):
            torch.testing.assert_close(mine, theirs, atol=TIE, rtol=0)
    else:
        assert torch.equal(ours, expected)


class _Forbid(LogitsProcessor):
    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, self.token] = -torch.inf
        return scores


class _StopAt(StoppingCriteria):
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


def test_own_logits_processors_and_stopping_criteria_are_heard(model: SwarmForCausalLM, reference: Reference) -> None:
    ids = reference.ids(PROMPTS[0])
    favourite = int(model.generate(ids, **{**GREEDY, "max_new_tokens": 1})[0, -1])
    ours, expected = (
        each.generate(
            ids,
            logits_processor=LogitsProcessorList([_Forbid(favourite)]),
            stopping_criteria=StoppingCriteriaList([_StopAt(ids.shape[1] + 9)]),
            **GREEDY,
        )
        for each in (model, reference.model)
    )
    assert ours.shape[1] == ids.shape[1] + 9 and favourite not in ours[0, ids.shape[1] :]
    assert torch.equal(ours, expected)


def test_stop_strings_end_the_text(model: SwarmForCausalLM, reference: Reference) -> None:
    ids = reference.ids(PROMPTS[3])
    ours, expected = (
        each.generate(ids, stop_strings=[" 89"], tokenizer=reference.tokenizer, **GREEDY)
        for each in (model, reference.model)
    )
    assert torch.equal(ours, expected)
    assert ours.shape[1] < ids.shape[1] + GREEDY["max_new_tokens"]


def test_a_text_streamer_prints_as_it_goes(
    model: SwarmForCausalLM, reference: Reference, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = reference.ids(PROMPTS[0])
    streamer = TextStreamer(reference.tokenizer, skip_prompt=True)
    ours = model.generate(ids, streamer=streamer, **GREEDY)
    assert capsys.readouterr().out.strip() == reference.tokenizer.decode(ours[0, ids.shape[1] :]).strip()


def test_an_iterator_streams_from_another_thread(model: SwarmForCausalLM, reference: Reference) -> None:
    ids = reference.ids(PROMPTS[0])
    streamer = TextIteratorStreamer(reference.tokenizer, skip_prompt=True, timeout=60.0)
    thread = threading.Thread(target=model.generate, args=(ids,), kwargs={"streamer": streamer, **GREEDY})
    thread.start()
    pieces = list(streamer)
    thread.join()
    expected = reference.model.generate(ids, **GREEDY)
    assert len([piece for piece in pieces if piece]) > 5
    assert "".join(pieces) == reference.tokenizer.decode(expected[0, ids.shape[1] :])


def test_generating_without_a_cache_gives_the_same_tokens(model: SwarmForCausalLM, reference: Reference) -> None:
    ids = reference.ids(PROMPTS[0])
    options = {"max_new_tokens": 8, "do_sample": False}
    expected = reference.model.generate(ids, **options)
    assert torch.equal(model.generate(ids, use_cache=False, **options), expected)


def test_embeddings_instead_of_ids_give_the_same_tokens(model: SwarmForCausalLM, reference: Reference) -> None:
    ids = reference.ids(PROMPTS[1])
    ours, expected = (
        each.generate(inputs_embeds=each.get_input_embeddings()(ids), **GREEDY) for each in (model, reference.model)
    )
    assert torch.equal(ours, expected)


def test_the_loss_of_a_forward_with_labels_equals(model: SwarmForCausalLM, reference: Reference) -> None:
    batch = reference.tokenizer([PROMPTS[16][:300], PROMPTS[17][:500]], return_tensors="pt", padding=True)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    ours = model(**batch, labels=labels).loss
    with torch.no_grad():
        expected = reference.model(**batch, labels=labels).loss
    print(f"loss {ours:.6f}, transformers {expected:.6f}")
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_a_cache_continues_a_forward_chunk_by_chunk(model: SwarmForCausalLM, reference: Reference) -> None:
    ids = reference.ids(PROMPTS[19])
    cache, parts, done = model.new_cache(), [], 0
    for length in (1, 16, 100, ids.shape[1] - 117):
        parts.append(model(ids[:, done : done + length], past_key_values=cache).logits)
        done += length
    torch.testing.assert_close(torch.cat(parts, 1), reference.logits(ids), atol=TIE, rtol=0)
