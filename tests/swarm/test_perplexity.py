"""bfloat16 through the swarm is as good as bfloat16 on one machine: perplexity of a text that we ship."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from swarm import AutoModelForCausalLM
from swarm.demo.processes import local_swarm
from tests.swarm.conftest import SPANS
from tests.swarm.reference import Reference

pytestmark = pytest.mark.slow

TEXT = Path(__file__).parents[1] / "data" / "lighthouse.txt"
WINDOW = 512

TOKENS = WINDOW
"""Without 16-bit arithmetic in the processor transformers takes a quarter of a minute for so many."""


def perplexity(model: Any, ids: torch.Tensor) -> float:
    """exp of the mean loss over windows of 512 tokens."""
    losses, tokens = 0.0, 0
    for window in ids[0].split(WINDOW):
        with torch.no_grad():
            loss = model(window[None], labels=window[None]).loss
        losses, tokens = losses + float(loss) * (len(window) - 1), tokens + len(window) - 1
    return float(torch.tensor(losses / tokens).exp())


@pytest.mark.long
def test_perplexity_in_bfloat16_is_that_of_one_machine(reference: Reference, tmp_path: Path) -> None:
    ids = reference.ids(TEXT.read_text(encoding="utf-8"))[:, :TOKENS]
    assert ids.shape[1] == TOKENS
    expected = perplexity(deepcopy(reference.model).bfloat16(), ids)
    flags = ("--dtype", "bfloat16", "--quant", "none", "--threads", "1")
    with local_swarm(SPANS[3], server_flags=flags, logs=tmp_path) as swarm:
        model = AutoModelForCausalLM.from_pretrained(initial_peers=[swarm.addr], dtype=torch.bfloat16)
        ours = perplexity(model, ids)
    print(f"perplexity of {ids.shape[1]} tokens: swarm {ours:.4f}, transformers {expected:.4f}")
    assert abs(ours / expected - 1) < 0.01
