"""Whole decoder blocks of random weights at the shapes of real models, for `python -m benchmarks kernels`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from swarm.blocks.config import ModelConfig, Rope
from swarm.blocks.native import NativeSpan
from swarm.blocks.native.binding import library
from swarm.blocks.paged.attention import Row
from swarm.blocks.paged.kv_cache import KVCache
from swarm.blocks.paged.pages import pages_for
from swarm.blocks.parts import Affine, BlockParts, Feed
from swarm.blocks.quantize import quantize
from swarm.blocks.span import TorchSpan
from swarm.blocks.weights import Weight

SHAPES = {"SmolLM2": (576, 9, 3, 64, 1536), "1B": (2048, 32, 8, 64, 8192), "8B": (4096, 32, 8, 128, 14336)}
"""D, H, K, E and the width inside the feed-forward half."""

COPIES = {"SmolLM2": 30, "1B": 3, "8B": 2}
"""Blocks that take turns, so that a step finds its weights in memory and not in the last cache."""

CONTEXT = 160
"""Tokens before the ones that are timed."""

TURNS, STEPS = 5, 4
"""How often each format has its turn for each number of rows, and decode steps timed in one; of prompts, one."""

FORMATS: dict[str, Callable[[Tensor], Weight]] = {
    "bf16": lambda weight: weight.bfloat16(),
    "int8": lambda weight: quantize(weight, 8),
    "int4": lambda weight: quantize(weight, 4),
}

FLOAT32: Callable[[Tensor], Weight] = Tensor.float

Run = Callable[[int], float]
"""Seconds that one pass of so many rows takes: of one sequence each up to 16 rows, else of one prompt."""


def measure(model: str, rows: list[int], read: Callable[[], float]) -> list[dict[str, Any]]:
    """Time blocks of every format, beside torch's in bfloat16; formats take turns.

    Args:
        model: Of `SHAPES`.
        rows: Numbers of tokens.
        read: Measures the read bandwidth, in GB/s.

    Returns:
        For each format and number of rows: `us` per block, `gb_per_s` of weights, `share` of the read bandwidth, and
        `error` of what the blocks add to the hidden state, against the same weights in float32.
    """
    spans = dict(_spans(model))
    exact = _added(TorchSpan(_config(model), dtype=torch.float32), _config(model), FLOAT32)
    errors = {name: float((span.added - exact).norm() / exact.norm()) for name, span in spans.items()}
    found = []
    for count in rows:
        times: dict[str, list[float]] = {name: [] for name in spans}
        bandwidth = read()
        for _ in range(TURNS):
            for name, span in spans.items():
                if count <= 16:
                    span.run(count)  # as in a decode, where each step follows another one of the same kind
                times[name] += [span.run(count) for _ in range(STEPS if count <= 16 else 1)]
        bandwidth = max(bandwidth, read())
        for name, span in spans.items():
            seconds = median(times[name]) / COPIES[model]
            speed = span.weight_bytes / COPIES[model] / seconds / 1e9
            entry = {"model": model, "kind": name, "rows": count, "us": 1e6 * seconds, "error": errors[name]}
            found.append(entry | {"gb_per_s": speed, "share": speed / bandwidth})
    return found


@dataclass(frozen=True)
class Loaded:
    """A span of one format: its size, what times it, and what it adds to some tokens."""

    weight_bytes: int
    run: Run
    added: Tensor


def _spans(model: str) -> Iterator[tuple[str, Loaded]]:
    config = _config(model)
    if library() is not None:
        for name, convert in FORMATS.items():
            yield f"{name} native", _loaded(NativeSpan(config, dtype=torch.bfloat16), config, convert)
    yield "bf16 torch", _loaded(TorchSpan(config, dtype=torch.bfloat16), config, FORMATS["bf16"])


def _added(span: NativeSpan | TorchSpan, config: ModelConfig, convert: Callable[[Tensor], Weight]) -> Tensor:
    """Fill the span with random weights; return what it adds to the hidden states of 16 tokens."""
    parts = _random_parts(config, convert)
    for index in range(config.num_blocks):
        span.add(parts, index)
    cache = _cache(config, 1, torch.float32 if convert is FLOAT32 else torch.bfloat16)
    sequence, hidden = cache.new_sequence(), _hidden(config)[:16]
    cache.prepare(sequence, 0, 16)
    return span.forward(hidden, [Row(sequence, 0, 16)], cache, 0, config.num_blocks).float() - hidden.float()


def _cache(config: ModelConfig, num_pages: int, dtype: torch.dtype) -> KVCache:
    return KVCache(
        num_blocks=config.num_blocks,
        num_pages=num_pages,
        num_kv_heads=config.num_kv_heads,
        head_size=config.head_size,
        dtype=dtype,
    )


def _hidden(config: ModelConfig) -> Tensor:
    return torch.randn(512, config.hidden_size, generator=torch.Generator().manual_seed(1)).bfloat16()


def _loaded(span: NativeSpan | TorchSpan, config: ModelConfig, convert: Callable[[Tensor], Weight]) -> Loaded:
    added, hidden = _added(span, config, convert), _hidden(config)
    cache = _cache(config, 16 * pages_for(CONTEXT + 1) + pages_for(512), torch.bfloat16)
    sequences = [cache.new_sequence() for _ in range(16)]
    for sequence in sequences:
        cache.prepare(sequence, 0, CONTEXT)
        span.forward(hidden[:CONTEXT], [Row(sequence, 0, CONTEXT)], cache, 0, config.num_blocks)
        cache.prepare(sequence, CONTEXT, 1)

    def run(count: int) -> float:
        if count <= len(sequences):
            rows = [Row(sequence, CONTEXT, 1) for sequence in sequences[:count]]
        else:
            prompt = cache.new_sequence()
            cache.prepare(prompt, 0, count)
            rows = [Row(prompt, 0, count)]
        started = time.perf_counter()
        span.forward(hidden[:count], rows, cache, 0, config.num_blocks)
        seconds = time.perf_counter() - started
        if count > len(sequences):
            cache.release(rows[0].sequence)
        return seconds

    return Loaded(span.weight_bytes, run, added)


def _config(model: str) -> ModelConfig:
    hidden, heads, kv_heads, head_size, inner = SHAPES[model]
    return ModelConfig(
        family="llama",
        hidden_size=hidden,
        num_blocks=COPIES[model],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=head_size,
        intermediate_size=inner,
        rms_eps=1e-5,
        rope=Rope(),
        context_length=2048,
        vocab_size=32000,
        tie_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
        stored_dtype="bfloat16",
        bos_id=None,
        eos_ids=(),
        pad_id=None,
    )


def _random_parts(config: ModelConfig, convert: Callable[[Tensor], Weight]) -> BlockParts:
    generator = torch.Generator().manual_seed(0)

    def affine(out: int, width: int) -> Affine:
        return Affine(weight=convert(torch.randn(out, width, generator=generator) * 0.02))

    hidden, inner, queries = config.hidden_size, config.intermediate_size, config.num_heads * config.head_size
    return BlockParts(
        norm=torch.ones(hidden),
        feed_norm=torch.ones(hidden),
        qkv=affine(queries + 2 * config.num_kv_heads * config.head_size, hidden),
        out=affine(hidden, queries),
        feeds=(Feed(gate=affine(inner, hidden), up=affine(inner, hidden), down=affine(hidden, inner)),),
    )
