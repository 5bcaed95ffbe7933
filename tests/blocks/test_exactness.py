"""Our blocks against transformers, which we did not write.

Tolerance: 2e-4 in float32 logits of order one; transformers against itself, chunked differently, is off by 6e-5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from swarm.blocks import BlockStack, KVCache, ModelEnds, Row, open_checkpoint
from swarm.types import Span
from tests.builders import logits_of, make_gguf, make_llama, reference_logits, run_chunks, some_ids, tiny_llama

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "one key head per query head": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "llama3 positions": {"rope_parameters": LLAMA3},
    "linear positions": {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}},
    "yarn positions": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0}},
    "a head of its own": {"tie_word_embeddings": False},
    "heads wider than hidden": {"head_dim": 32},
    "shards": {"shard_bytes": 40_000, "tie_word_embeddings": False},
}
TOLERANCE = 2e-4


def _loaded(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[BlockStack, KVCache, ModelEnds]:
    checkpoint = open_checkpoint(folder)
    stack = BlockStack.load(checkpoint, Span(0, checkpoint.config.num_blocks), dtype=dtype)
    return stack, stack.new_cache(64), ModelEnds.load(checkpoint, dtype=dtype)


@pytest.mark.parametrize("settings", SHAPES.values(), ids=SHAPES.keys())
def test_logits_equal_those_of_transformers(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = make_llama(tmp_path, **settings)
    ids = some_ids(70)
    stack, cache, ends = _loaded(tmp_path)
    expected = reference_logits(model, ids)
    for chunks in ([70], [1] * 70, [17, 1, 32, 2, 18]):
        torch.testing.assert_close(run_chunks(stack, cache, ends, ids, chunks), expected, atol=TOLERANCE, rtol=0)
    assert cache.free_pages == cache.num_pages
    cache.check()


@pytest.mark.parametrize("quant", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_a_gguf_file_gives_the_logits_of_the_model_it_was_made_of(tmp_path: Path, quant: str) -> None:
    model = tiny_llama(tie_word_embeddings=False)
    make_gguf(tmp_path / "tiny.gguf", model, quant=quant)
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    ids = some_ids(40)
    ours = logits_of(checkpoint, ids, [40], torch.float32)
    torch.testing.assert_close(ours, reference_logits(model, ids), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_as_close_to_float32_as_transformers_own_sixteen_bits(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    model = make_llama(tmp_path)
    ids = some_ids(50)
    exact = reference_logits(model, ids)
    theirs = (reference_logits(model.to(dtype), ids) - exact).square().mean().sqrt()
    stack, cache, ends = _loaded(tmp_path, dtype)
    for chunks in ([50], [1] * 50, [30, 2, 18]):
        ours = (run_chunks(stack, cache, ends, ids, chunks) - exact).square().mean().sqrt()
        assert ours <= 1.3 * theirs + 1e-6


def test_spans_one_after_another_equal_the_whole(tmp_path: Path) -> None:
    model = make_llama(tmp_path, num_blocks=5)
    checkpoint, ids = open_checkpoint(tmp_path), some_ids(20)
    ends = ModelEnds.load(checkpoint, dtype=torch.float32)
    hidden = ends.embed(ids)
    for span in (Span(0, 1), Span(1, 4), Span(4, 5)):
        stack = BlockStack.load(checkpoint, span, dtype=torch.float32)
        cache = stack.new_cache(4)
        sequence = cache.new_sequence()
        cache.prepare(sequence, 0, 20)
        hidden = stack.forward(hidden, [Row(sequence, 0, 20)], cache)
    torch.testing.assert_close(ends.logits(hidden), reference_logits(model, ids), atol=TOLERANCE, rtol=0)


def test_a_part_of_a_span_runs_alone(tmp_path: Path) -> None:
    make_llama(tmp_path, num_blocks=4)
    checkpoint = open_checkpoint(tmp_path)
    hidden = ModelEnds.load(checkpoint, dtype=torch.float32).embed(some_ids(9))
    whole, part = (BlockStack.load(checkpoint, span, dtype=torch.float32) for span in (Span(0, 4), Span(1, 3)))
    results = []
    for stack in (whole, part):
        cache = stack.new_cache(2)
        sequence = cache.new_sequence()
        cache.prepare(sequence, 0, 9)
        results.append(stack.forward(hidden, [Row(sequence, 0, 9)], cache, span=Span(1, 3)))
    assert torch.equal(*results)
    with pytest.raises(ValueError, match="blocks 0:2 wanted, 1:3 loaded"):
        part.forward(hidden, [Row(sequence, 0, 9)], cache, span=Span(0, 2))


def test_a_ragged_batch_equals_each_sequence_alone(tmp_path: Path) -> None:
    model = make_llama(tmp_path)
    stack, cache, ends = _loaded(tmp_path)
    texts = [some_ids(length, seed=length) for length in (33, 5, 18)]
    sequences = [cache.new_sequence() for _ in texts]
    held = [20, 4, 0]
    for sequence, ids, length in zip(sequences, texts, held, strict=True):
        if length:
            cache.prepare(sequence, 0, length)
            stack.forward(ends.embed(ids[:length]), [Row(sequence, 0, length)], cache)
    rows = []
    for sequence, ids, length in zip(sequences, texts, held, strict=True):
        cache.prepare(sequence, length, len(ids) - length)
        rows.append(Row(sequence, length, len(ids) - length))
    fresh = torch.cat([ids[length:] for ids, length in zip(texts, held, strict=True)])
    logits = ends.logits(stack.forward(ends.embed(fresh), rows, cache))
    expected = [reference_logits(model, ids)[length:] for ids, length in zip(texts, held, strict=True)]
    torch.testing.assert_close(logits, torch.cat(expected), atol=TOLERANCE, rtol=0)


def test_a_fork_that_diverges_equals_two_separate_runs(tmp_path: Path) -> None:
    model = make_llama(tmp_path)
    stack, cache, ends = _loaded(tmp_path)
    shared, tails = some_ids(21), [some_ids(6, seed=1), some_ids(6, seed=2)]
    parent = cache.new_sequence()
    cache.prepare(parent, 0, 21)
    stack.forward(ends.embed(shared), [Row(parent, 0, 21)], cache)
    child = cache.fork(parent)
    assert cache.num_pages - cache.free_pages == 2
    for position in range(6):
        rows = [Row(sequence, 21 + position, 1) for sequence in (parent, child)]
        for row in rows:
            cache.prepare(row.sequence, row.position, 1)
        ids = torch.stack([tail[position] for tail in tails])
        logits = ends.logits(stack.forward(ends.embed(ids), rows, cache))
        for index, tail in enumerate(tails):
            expected = reference_logits(model, torch.cat((shared, tail[: position + 1])))[-1]
            torch.testing.assert_close(logits[index], expected, atol=TOLERANCE, rtol=0)
    assert cache.num_pages - cache.free_pages == 3
    cache.check()


@pytest.mark.parametrize("back_to", [0, 7, 16, 29])
def test_a_roll_back_by_position_forgets_what_came_after(tmp_path: Path, back_to: int) -> None:
    model = make_llama(tmp_path)
    stack, cache, ends = _loaded(tmp_path)
    wrong, right = some_ids(40, seed=3), some_ids(40, seed=4)
    right[:back_to] = wrong[:back_to]
    sequence = cache.new_sequence()
    for ids, start in ((wrong, 0), (right, back_to)):
        cache.prepare(sequence, start, 40 - start)
        logits = ends.logits(stack.forward(ends.embed(ids[start:]), [Row(sequence, start, 40 - start)], cache))
    torch.testing.assert_close(logits, reference_logits(model, right)[back_to:], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("quant", ["none", "int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resting_between_blocks_changes_no_bit(tmp_path: Path, quant: Any, dtype: torch.dtype) -> None:
    make_llama(tmp_path)
    stack = BlockStack.load(open_checkpoint(tmp_path), Span(0, 3), dtype=dtype, quant=quant)
    cache = stack.new_cache(16)
    hidden = torch.randn(20, stack.config.hidden_size, generator=torch.Generator().manual_seed(1)).to(dtype)
    results = []
    for parts in ([Span(0, 3)], [Span(0, 1), Span(1, 2), Span(2, 3)]):
        sequence, output = cache.new_sequence(), hidden
        cache.prepare(sequence, 0, 20)
        for part in parts:
            output = stack.forward(output, [Row(sequence, 0, 20)], cache, span=part, goes_on=part.end < 3)
        results.append(output)
    assert results[0].dtype == results[1].dtype == dtype
    assert torch.equal(results[0], results[1])
