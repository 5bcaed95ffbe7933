"""Token identity: what the swarm generates is what one plain transformers process generates, in float32."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
import torch

from swarm.client import SwarmForCausalLM
from tests.swarm.conftest import SPANS, Swarms
from tests.swarm.prompts import FEW, PROMPTS
from tests.swarm.reference import NEW_TOKENS, TIE, Reference

pytestmark = pytest.mark.slow


def test_greedy_tokens_equal(swarms: Swarms, reference: Reference) -> None:
    compare_greedy(3, FEW[:2], swarms, reference)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("num_servers", SPANS)
def test_greedy_tokens_of_all_twenty_prompts_equal(num_servers: int, swarms: Swarms, reference: Reference) -> None:
    compare_greedy(num_servers, range(len(PROMPTS)), swarms, reference)


def compare_greedy(num_servers: int, prompts: Sequence[int], swarms: Swarms, reference: Reference) -> None:
    _, model = swarms(num_servers)
    ties = tokens = 0
    started = time.monotonic()
    for prompt in prompts:
        expected = reference.greedy(prompt)
        ids = reference.ids(PROMPTS[prompt])
        ours = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
        assert [f"{hop.start}:{hop.end}" for hop in model.route()] == list(SPANS[num_servers])
        ties += reference.same(ours, expected)
        tokens += expected.shape[1] - ids.shape[1]
    seconds = time.monotonic() - started
    print(f"{num_servers} servers: {len(prompts)} prompts, {tokens} tokens, {ties} ties, {seconds:.0f} s")


@pytest.mark.parametrize("num_servers", [1, pytest.param(2, marks=pytest.mark.long), 3, 5])
def test_logits_of_whole_prompts_differ_by_no_more_than_transformers_from_itself(
    num_servers: int, swarms: Swarms, reference: Reference
) -> None:
    _, model = swarms(num_servers)
    worst = 0.0
    for prompt in FEW:
        ids = reference.ids(PROMPTS[prompt])
        worst = max(worst, float((model(ids).logits - reference.logits(ids)).abs().max()))
    print(f"{num_servers} servers: logits differ by at most {worst:.1e}")
    assert worst <= TIE


@pytest.mark.parametrize("num_servers", [3, pytest.param(5, marks=pytest.mark.long)])
def test_padded_batch_equals(num_servers: int, swarms: Swarms, reference: Reference) -> None:
    _, model = swarms(num_servers)
    batch = reference.tokenizer(
        [PROMPTS[prompt] for prompt in (0, 1, 12, 15)], return_tensors="pt", padding=True, padding_side="left"
    )
    assert not batch.attention_mask.all()
    options = {"max_new_tokens": 32, "do_sample": False}
    expected = reference.remembered("padded batch", lambda: reference.model.generate(**batch, **options))
    ties = reference.same(model.generate(**batch, **options), expected)
    print(f"{num_servers} servers, padded batch of 4: {ties} ties")


def test_four_beams_equal(model: SwarmForCausalLM, reference: Reference) -> None:
    ids = reference.ids(PROMPTS[FEW[1]])
    options = {"max_new_tokens": 32, "num_beams": 4, "do_sample": False}
    assert torch.equal(model.generate(ids, **options), reference.model.generate(ids, **options))


def test_four_beams_over_a_padded_batch_equal_all_returned(model: SwarmForCausalLM, reference: Reference) -> None:
    batch = reference.tokenizer(list(PROMPTS[:2]), return_tensors="pt", padding=True, padding_side="left")
    options = {"max_new_tokens": 16, "num_beams": 4, "num_return_sequences": 4, "do_sample": False}
    assert torch.equal(model.generate(**batch, **options), reference.model.generate(**batch, **options))


def test_seeded_sampling_draws_the_same_tokens(model: SwarmForCausalLM, reference: Reference) -> None:
    for seed, prompt in enumerate(FEW[:2]):
        ids = reference.ids(PROMPTS[prompt])
        options = {"max_new_tokens": 24, "do_sample": True, "temperature": 0.9, "top_p": 0.95, "top_k": 40}
        torch.manual_seed(seed)
        expected = reference.model.generate(ids, **options)
        torch.manual_seed(seed)
        assert torch.equal(model.generate(ids, **options), expected)


def test_several_sequences_of_one_prompt_are_sampled_alike(model: SwarmForCausalLM, reference: Reference) -> None:
    ids = reference.ids(PROMPTS[1])
    options = {"max_new_tokens": 24, "do_sample": True, "num_return_sequences": 3}
    torch.manual_seed(7)
    expected = reference.model.generate(ids, **options)
    torch.manual_seed(7)
    ours = model.generate(ids, **options)
    assert len({tuple(row) for row in expected.tolist()}) == 3
    assert torch.equal(ours, expected)
