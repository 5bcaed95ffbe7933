"""generate() through a swarm of hops for models of several families: ends, positions and blocks fit together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import GenerationConfig

from swarm.blocks import Checkpoint, ModelEnds, open_checkpoint
from swarm.client.bridge import bridge as the_bridge
from swarm.client.model import SwarmForCausalLM
from swarm.client.opening import Model
from swarm.errors import PromptTooLong
from tests.builders import some_ids
from tests.client.test_both_ends import Swarm
from tests.families import make_tiny

FAMILIES = ["gemma2", "gemma3", "mixtral", "opt", "gpt2", "falcon"]


def _remote(swarm: Swarm, checkpoint: Checkpoint) -> SwarmForCausalLM:
    return SwarmForCausalLM(
        checkpoint.config.to_transformers(),
        ends=ModelEnds.load(checkpoint, dtype=torch.float32),
        model=Model(name=checkpoint.name, fingerprint=checkpoint.fingerprint, hidden_size=64),
        connection=cast(Any, swarm),
    )


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, SwarmForCausalLM]]:
    """A local model and the same one on two hops."""
    local = make_tiny(tmp_path, request.param)
    checkpoint, bridge = open_checkpoint(tmp_path), the_bridge()
    end = checkpoint.config.num_blocks
    swarm = Swarm(checkpoint, (0, 1, end))
    bridge.run(swarm.start())
    yield local, _remote(swarm, checkpoint)
    bridge.run(swarm.stop())


@pytest.mark.slow
def test_tokens_and_logits_of_a_padded_batch_equal_a_local_run(pair: tuple[Any, SwarmForCausalLM]) -> None:
    ids = some_ids(39, seed=7).view(3, 13).clamp(min=3)
    mask = torch.ones_like(ids)
    for row, padding in enumerate((0, 3, 7)):
        ids[row, :padding], mask[row, :padding] = 0, 0
    options: dict[str, Any] = {"num_beams": 2, "do_sample": False, "max_new_tokens": 9, "pad_token_id": 0}
    config = GenerationConfig(**options)
    local, remote = (model.generate(ids, attention_mask=mask, generation_config=config) for model in pair)
    assert torch.equal(local, remote)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = pair[0](ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(
        pair[1](ids, attention_mask=mask).logits[mask > 0], expected[mask > 0], atol=2e-4, rtol=0
    )
    if pair[0].config.model_type == "gpt2":
        with pytest.raises(PromptTooLong, match="256 tokens of context"):
            pair[1](some_ids(257)[None])
