"""Qwen 2 (biases on q, k and v; arXiv:2407.10671) and Qwen 3 (norms of query and key heads; arXiv:2505.09388)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.blocks.config import ModelConfig
from swarm.blocks.families.family import Family
from swarm.blocks.families.gguf_header import Header
from swarm.blocks.families.hf_config import read_config, read_windows
from swarm.blocks.families.wiring import (
    assemble,
    block_shapes,
    end_shapes,
    head_norm_shapes,
    keep_gguf,
    locate,
)

_ABSENT = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_ABSENT_QWEN3 = {**_ABSENT, "head_dim": 128}


def _windows(raw: Mapping[str, Any], *, source: object) -> tuple[int, ...]:
    """The window is off unless it is switched on, and then only the later blocks have one."""
    if not raw["use_sliding_window"]:
        return ()
    first = raw["max_window_layers"]
    kinds = ["sliding_attention" if index >= first else "full_attention" for index in range(raw["num_hidden_layers"])]
    return read_windows(raw, kinds, source=source)


def _qwen2_from_hf(raw: Mapping[str, Any], *, source: object) -> ModelConfig:
    raw = {**_ABSENT, **raw, "attention_bias": True, "head_dim": None}
    return read_config("qwen2", raw, source=source, windows=_windows(raw, source=source))


def _qwen3_from_hf(raw: Mapping[str, Any], *, source: object) -> ModelConfig:
    raw = {**_ABSENT_QWEN3, **raw}
    return read_config("qwen3", raw, source=source, windows=_windows(raw, source=source))


def _qwen2_from_gguf(
    fields: Mapping[str, Any], kinds: Mapping[str, str], factors: tuple[float, ...], *, source: object
) -> ModelConfig:
    return Header(fields, kinds, source=source).config("qwen2", factors=factors)


def _qwen3_from_gguf(
    fields: Mapping[str, Any], kinds: Mapping[str, str], factors: tuple[float, ...], *, source: object
) -> ModelConfig:
    return Header(fields, kinds, source=source).config("qwen3", factors=factors)


def _qwen2_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    shapes = block_shapes(config)
    shapes.pop("self_attn.o_proj.bias", None)  # the biases are those of q, k and v
    return shapes


def _qwen3_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return block_shapes(config) | head_norm_shapes(config)


QWEN2 = Family(
    name="qwen2",
    from_hf=_qwen2_from_hf,
    from_gguf=_qwen2_from_gguf,
    block_shapes=_qwen2_shapes,
    end_shapes=end_shapes,
    locate=locate,
    undo_gguf=keep_gguf,
    assemble=assemble,
)
QWEN3 = Family(
    name="qwen3",
    from_hf=_qwen3_from_hf,
    from_gguf=_qwen3_from_gguf,
    block_shapes=_qwen3_shapes,
    end_shapes=end_shapes,
    locate=locate,
    undo_gguf=keep_gguf,
    assemble=assemble,
)
