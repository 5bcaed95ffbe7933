"""The whole bundled model against transformers, whose own reader of GGUF files makes the reference."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from swarm.blocks import Checkpoint, open_checkpoint
from tests.builders import logits_of, reference_logits, some_ids

IDS = some_ids(48, vocab_size=49152)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return open_checkpoint("smollm2-135m")


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> LlamaForCausalLM:
    path = str(checkpoint.path)
    settings = load_gguf_checkpoint(path)["config"]
    settings.pop("model_type")
    model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    assert model.load_state_dict(tensors, strict=False).missing_keys == ["lm_head.weight"]
    model.tie_weights()
    return model


@pytest.mark.slow
def test_float32_logits_equal_those_of_transformers(checkpoint: Checkpoint, model: LlamaForCausalLM) -> None:
    expected = reference_logits(model, IDS)
    for chunks in ([48], [1] * 48, [20, 1, 27]):
        ours = logits_of(checkpoint, IDS, chunks, torch.float32)
        torch.testing.assert_close(ours, expected, atol=2e-4, rtol=0)


@pytest.mark.slow
def test_bfloat16_is_as_close_as_transformers_own(checkpoint: Checkpoint, model: LlamaForCausalLM) -> None:
    exact = reference_logits(model, IDS).log_softmax(-1)
    ours = logits_of(checkpoint, IDS, [20, 1, 27], torch.bfloat16).log_softmax(-1)
    theirs = reference_logits(model.to(torch.bfloat16), IDS).log_softmax(-1)
    assert _divergence(exact, ours) <= 1.3 * _divergence(exact, theirs)


def _divergence(exact: torch.Tensor, other: torch.Tensor) -> float:
    return float((exact.exp() * (exact - other)).sum(-1).mean())
