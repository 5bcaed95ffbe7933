"""GGUF files of every family against the transformers models that they were made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from swarm.blocks import BlockStack, ModelEnds, open_checkpoint
from swarm.blocks.families.gemma import GEMMA3
from swarm.errors import CheckpointCorrupt
from swarm.types import Span
from tests.builders import logits_of, reference_logits, run_chunks, some_ids
from tests.gguf_families import ARCHITECTURES, make_family_gguf


@pytest.mark.parametrize("quant", ["F32", "Q4_1"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_gguf_file_gives_the_logits_of_the_model_it_was_made_of(tmp_path: Path, model_type: str, quant: str) -> None:
    model = make_family_gguf(tmp_path / "tiny.gguf", model_type, quant=quant)
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    assert checkpoint.family.name == model_type
    ids = some_ids(40)
    ours = logits_of(checkpoint, ids, [25, 1, 14], torch.float32)
    torch.testing.assert_close(ours, reference_logits(model, ids), atol=2e-4, rtol=0)


@pytest.mark.parametrize("quant", ["F32", "Q8_0", "Q4_0"])
def test_experts_in_one_tensor_and_alone_are_the_same_model(tmp_path: Path, quant: str) -> None:
    found = []
    for stacked in (True, False):
        make_family_gguf(tmp_path / "tiny.gguf", "mixtral", quant=quant, stacked=stacked)
        found.append(logits_of(open_checkpoint(tmp_path / "tiny.gguf"), some_ids(20), [20], torch.float32))
    assert torch.equal(*found)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_file_s_own_4_bits_are_served_within_their_rounding(tmp_path: Path, model_type: str) -> None:
    model = make_family_gguf(tmp_path / "tiny.gguf", model_type, quant="Q4_1")
    checkpoint, ids = open_checkpoint(tmp_path / "tiny.gguf"), some_ids(40)
    quant = checkpoint.resolve_quant("auto", "auto")
    stack = BlockStack.load(checkpoint, Span(0, checkpoint.config.num_blocks), dtype=torch.float32, quant=quant)
    expected = reference_logits(model, ids)
    ours = run_chunks(stack, stack.new_cache(8), ModelEnds.load(checkpoint, dtype=torch.float32), ids, [40])
    # Scales rounded to bfloat16 and activations to 8 bits: some percent over four blocks of random weights, and of the
    # median token, as one may go to another expert for it.
    errors = (ours - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert quant == "int4" and errors.median() < 0.15


@pytest.mark.parametrize(
    ("pattern", "windows"), [(None, [9] * 5 + [0]), (2, [9, 0] * 3), ([True, True, False] * 2, [9, 9, 0] * 2)]
)
def test_a_header_may_say_which_blocks_have_a_window(pattern: int | list[bool] | None, windows: list[int]) -> None:
    sizes = {"embedding_length": 64, "block_count": 6, "attention.head_count": 4, "feed_forward_length": 96}
    sizes |= {"attention.layer_norm_rms_epsilon": 1e-6, "context_length": 256, "attention.sliding_window": 9}
    fields: dict[str, object] = {f"gemma3.{name}": value for name, value in sizes.items()}
    fields |= {"general.architecture": "gemma3"}
    fields |= {} if pattern is None else {"gemma3.attention.sliding_window_pattern": pattern}
    assert GEMMA3.from_gguf is not None
    assert list(GEMMA3.from_gguf(fields, {}, (), source="here").windows) == windows


def test_a_stack_of_the_wrong_size_is_told(tmp_path: Path) -> None:
    make_family_gguf(tmp_path / "tiny.gguf", "mixtral")
    raw = (tmp_path / "tiny.gguf").read_bytes()
    key = b"llama.expert_count"
    at = raw.index(key) + len(key) + 4  # behind the type: a count of four
    (tmp_path / "tiny.gguf").write_bytes(raw[:at] + b"\x03" + raw[at + 1 :])
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    with pytest.raises(CheckpointCorrupt, match=r"does not hold 3 parts|the configuration says"):
        checkpoint.read_block(0)
