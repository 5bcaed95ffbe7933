"""`model.blocks`, `model.route()` and `model.explain()` over real servers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from swarm.client import SwarmForCausalLM
from swarm.errors import PromptTooLong, UsageError
from tests.swarm.conftest import SPANS, Swarms
from tests.swarm.prompts import PROMPTS
from tests.swarm.reference import Reference

pytestmark = pytest.mark.slow


def layers(reference: Reference, start: int, end: int, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """Run transformers' own layers `start` to `end` - 1 on whole sequences, padding masked."""
    inner = reference.model.model
    length = hidden.shape[1]
    mask = torch.ones(hidden.shape[:2], dtype=torch.long) if mask is None else mask
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    allowed = torch.ones(length, length, dtype=torch.bool).tril() & mask.bool()[:, None, None, :]
    # A row of padding sees itself: nothing to attend to at all would be no number.
    allowed = allowed | torch.eye(length, dtype=torch.bool)
    with torch.no_grad():
        rotary = inner.rotary_emb(hidden, positions)
        for layer in inner.layers[start:end]:
            hidden = layer(hidden, attention_mask=allowed, position_ids=positions, position_embeddings=rotary)
    return hidden


@pytest.mark.parametrize(("start", "end"), [(0, 30), (0, 1), (5, 9), (7, 19), (18, 30), (29, 30)])
def test_a_slice_equals_the_layers_of_transformers(
    start: int, end: int, model: SwarmForCausalLM, reference: Reference
) -> None:
    hidden = reference.model.get_input_embeddings()(reference.ids(PROMPTS[12])).detach()
    ours = model.blocks[start:end](hidden)
    theirs = layers(reference, start, end, hidden)
    # Activations grow to hundreds in the middle of this model: relative to their size.
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5


def test_a_padded_batch_through_a_slice_equals(model: SwarmForCausalLM, reference: Reference) -> None:
    for side in ("left", "right"):
        batch = reference.tokenizer(list(PROMPTS[:3]), return_tensors="pt", padding=True, padding_side=side)
        hidden = reference.model.get_input_embeddings()(batch.input_ids).detach()
        ours = model.blocks[4:21](hidden, attention_mask=batch.attention_mask)
        real = batch.attention_mask.bool()
        theirs = layers(reference, 4, 21, hidden, batch.attention_mask)
        assert float((ours - theirs)[real].abs().max() / theirs[real].abs().max()) < 1e-5
        assert not ours[~real].any()


def test_slices_behave_like_a_list_of_blocks(model: SwarmForCausalLM) -> None:
    assert len(model.blocks) == 30 and len(model.blocks[3:7]) == 4
    assert model.blocks[3:][2:5].span == model.blocks[5:8].span
    assert model.blocks[-1].span == model.blocks[29:30].span
    with pytest.raises(UsageError, match="at least one block"):
        model.blocks[7:7]
    with pytest.raises(UsageError, match="in order and without gaps"):
        model.blocks[0:8:2]


def test_what_cannot_be_run_is_refused_before_it_is_sent(model: SwarmForCausalLM) -> None:
    with pytest.raises(UsageError, match="576"):
        model.blocks[0:2](torch.zeros(1, 3, 64))
    with pytest.raises(PromptTooLong, match="8192"):
        model.blocks[0:2](torch.zeros(1, 8193, 576))


def test_the_route_names_the_hops_in_order(swarms: Swarms) -> None:
    swarm, model = swarms(3)
    hops = model.route()
    assert [f"{hop.start}:{hop.end}" for hop in hops] == list(SPANS[3])
    assert [hop.peer for hop in hops] == [ready["peer"] for ready in swarm.ready]


def test_the_times_of_the_hops_and_the_network_make_up_the_step(model: SwarmForCausalLM, reference: Reference) -> None:
    model.generate(reference.ids(PROMPTS[1]), max_new_tokens=24, min_new_tokens=24, do_sample=False)
    told = model.explain()
    print(told)
    assert [times.hop for times in told.hops] == list(model.route())
    assert told.num_steps == 23
    parts = sum(times.queue + times.compute + times.handling for times in told.hops) + told.network
    assert parts == pytest.approx(told.step, rel=0.1)
    assert all(times.compute > 0 for times in told.hops)
