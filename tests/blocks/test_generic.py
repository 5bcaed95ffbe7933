"""transformers' own layers over our pages: spans, parts, ragged batches, and what each side holds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from swarm.blocks import BlockStack, Checkpoint, ModelEnds, Row, open_checkpoint
from swarm.errors import CheckpointCorrupt, PromptTooLong, UnsupportedModel, UsageError
from swarm.types import Span
from tests.builders import reference_logits, some_ids
from tests.families import make_tiny

TOLERANCE = 2e-4


def _placed(ends: ModelEnds, ids: torch.Tensor, start: int = 0) -> torch.Tensor:
    return ends.place(ends.embed(ids), torch.arange(start, start + len(ids)))


def _load(checkpoint: Checkpoint, start: int, end: int) -> BlockStack:
    return BlockStack.load(checkpoint, Span(start, end), dtype=torch.float32)


@pytest.mark.parametrize("model_type", ["opt", "falcon"])
def test_spans_one_after_another_equal_the_whole(tmp_path: Path, model_type: str) -> None:
    model = make_tiny(tmp_path, model_type)
    checkpoint, ids = open_checkpoint(tmp_path), some_ids(20)
    ends = ModelEnds.load(checkpoint, dtype=torch.float32)
    hidden, end = _placed(ends, ids), checkpoint.config.num_blocks
    for bounds in ((0, 1), (1, end)):
        stack = _load(checkpoint, *bounds)
        assert stack.kernel == "transformers"
        cache = stack.new_cache(4)
        sequence = cache.new_sequence()
        cache.prepare(sequence, 0, 20)
        hidden = stack.forward(hidden, [Row(sequence, 0, 20)], cache)
    torch.testing.assert_close(ends.logits(hidden), reference_logits(model, ids), atol=TOLERANCE, rtol=0)  # type: ignore[arg-type]


def test_a_part_of_a_span_runs_alone(tmp_path: Path) -> None:
    make_tiny(tmp_path, "gpt_neox")
    checkpoint = open_checkpoint(tmp_path)
    hidden = _placed(ModelEnds.load(checkpoint, dtype=torch.float32), some_ids(9))
    results = []
    for stack in (_load(checkpoint, 0, 4), _load(checkpoint, 1, 3)):
        cache = stack.new_cache(2)
        sequence = cache.new_sequence()
        cache.prepare(sequence, 0, 9)
        results.append(stack.forward(hidden, [Row(sequence, 0, 9)], cache, span=Span(1, 3)))
    assert torch.equal(*results)


def test_a_ragged_batch_equals_each_sequence_alone(tmp_path: Path) -> None:
    model = make_tiny(tmp_path, "opt")
    checkpoint = open_checkpoint(tmp_path)
    ends, stack = ModelEnds.load(checkpoint, dtype=torch.float32), _load(checkpoint, 0, 3)
    cache, texts, held = stack.new_cache(16), [some_ids(n, seed=n) for n in (33, 5)], [20, 0]
    sequences = [cache.new_sequence() for _ in texts]
    cache.prepare(sequences[0], 0, 20)
    stack.forward(_placed(ends, texts[0][:20]), [Row(sequences[0], 0, 20)], cache)
    rows, fresh = [], []
    for sequence, ids, start in zip(sequences, texts, held, strict=True):
        cache.prepare(sequence, start, len(ids) - start)
        rows.append(Row(sequence, start, len(ids) - start))
        fresh.append(_placed(ends, ids[start:], start))
    logits = ends.logits(stack.forward(torch.cat(fresh), rows, cache))
    expected = [reference_logits(model, ids)[start:] for ids, start in zip(texts, held, strict=True)]  # type: ignore[arg-type]
    torch.testing.assert_close(logits, torch.cat(expected), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("model_type", ["falcon", "qwen2_moe"])
def test_each_side_holds_only_its_own_weights(tmp_path: Path, model_type: str) -> None:
    model = make_tiny(tmp_path, model_type)
    checkpoint = open_checkpoint(tmp_path)
    layers = model.base_model.get_submodule("h" if model_type == "falcon" else "layers")
    own = [sum(weight.nbytes for weight in layer.parameters()) for layer in layers]  # type: ignore[union-attr]
    stack, ends = _load(checkpoint, 1, 3), ModelEnds.load(checkpoint, dtype=torch.float32)
    assert stack.weight_bytes == own[1] + own[2]
    assert ends.weight_bytes == sum(weight.nbytes for weight in model.parameters()) - sum(own)
    assert checkpoint.block_bytes(torch.float32) == own[0]


def test_several_threads_may_use_the_ends_of_one_model(tmp_path: Path) -> None:
    make_tiny(tmp_path, "gpt2")
    ends = ModelEnds.load(open_checkpoint(tmp_path), dtype=torch.float32)
    texts = [some_ids(30, seed=seed) for seed in range(12)]

    def both(ids: torch.Tensor) -> torch.Tensor:
        return ends.logits(_placed(ends, ids))

    alone = [both(ids) for ids in texts]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, pool.map(both, texts), alone))


def test_what_a_generic_model_cannot_do_is_told(tmp_path: Path) -> None:
    make_tiny(tmp_path, "gpt2")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.resolve_quant("auto", "auto") == "none"
    with pytest.raises(UsageError, match=r"--quant int8: .* transformers' own layers, .* --quant none"):
        BlockStack.load(checkpoint, Span(0, 1), dtype=torch.bfloat16, quant="int8")
    with pytest.raises(PromptTooLong, match="position 256 is beyond the model's 256 tokens"):
        ModelEnds.load(checkpoint, dtype=torch.float32).place(torch.zeros(1, 64), torch.tensor([256]))
    weights = load_file(tmp_path / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointCorrupt, match=r"no tensor transformer\.h\.1\.mlp\.c_fc\.bias"):
        _load(open_checkpoint(tmp_path), 0, 2)


def test_parts_of_experts_that_are_missing_are_told(tmp_path: Path) -> None:
    make_tiny(tmp_path, "qwen2_moe")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.0.mlp.experts.3.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises((CheckpointCorrupt, UnsupportedModel), match=r"experts\.3\.up_proj"):
        _load(open_checkpoint(tmp_path), 0, 1)
