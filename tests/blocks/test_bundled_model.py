"""The whole bundled model against transformers, whose own reader of GGUF files makes the reference."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from swarm.blocks import Checkpoint, open_checkpoint
from tests.builders import logits_of, reference_logits, some_ids
from tests.bundled import transformers_model

IDS = some_ids(48, vocab_size=49152)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return open_checkpoint("smollm2-135m")


@pytest.mark.slow
def test_float32_logits_equal_those_of_transformers(checkpoint: Checkpoint) -> None:
    expected = reference_logits(transformers_model(), IDS)
    for chunks in ([48], [1] * 48, [20, 1, 27]):
        ours = logits_of(checkpoint, IDS, chunks, torch.float32)
        torch.testing.assert_close(ours, expected, atol=2e-4, rtol=0)


@pytest.mark.slow
def test_bfloat16_is_as_close_as_transformers_own(checkpoint: Checkpoint) -> None:
    exact = reference_logits(transformers_model(), IDS).log_softmax(-1)
    ours = logits_of(checkpoint, IDS, [20, 1, 27], torch.bfloat16).log_softmax(-1)
    theirs = reference_logits(deepcopy(transformers_model()).bfloat16(), IDS).log_softmax(-1)
    assert _divergence(exact, ours) <= 1.3 * _divergence(exact, theirs)


def _divergence(exact: torch.Tensor, other: torch.Tensor) -> float:
    return float((exact.exp() * (exact - other)).sum(-1).mean())
