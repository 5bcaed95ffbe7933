"""Mistral (windows; arXiv:2310.06825) and Mixtral (experts; arXiv:2401.04088). Their GGUF files say "llama"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.blocks.config import ModelConfig
from swarm.blocks.families.family import Family, Place
from swarm.blocks.families.gguf_header import Header
from swarm.blocks.families.hf_config import read_config, read_windows
from swarm.blocks.families.llama import undo_permutation
from swarm.blocks.families.wiring import (
    GGUF_NAMES,
    affine,
    assemble,
    attention_shapes,
    block_shapes,
    end_shapes,
    feed,
    gguf_name,
    locate,
    vector,
)
from swarm.blocks.parts import BlockParts
from swarm.blocks.weights import Weight

_ABSENT = {
    "hidden_act": "silu",
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096 * 32,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ABSENT_MISTRAL = {**_ABSENT, "rms_norm_eps": 1e-6, "sliding_window": 4096}
_ABSENT_MIXTRAL = {**_ABSENT, "rms_norm_eps": 1e-5, "num_local_experts": 8, "num_experts_per_tok": 2, "rope_theta": 1e6}

_ROUTER = "block_sparse_moe.gate.weight"
_EXPERT = "block_sparse_moe.experts."
_GGUF_EXPERTS = {"w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up"}
_MIXTRAL_GGUF_NAMES = {**GGUF_NAMES, "block_sparse_moe.gate": "ffn_gate_inp"}


def _all_windows(raw: Mapping[str, Any], *, source: object) -> tuple[int, ...]:
    return read_windows({**raw, "layer_types": None}, ["sliding_attention"] * raw["num_hidden_layers"], source=source)


def _mistral_from_hf(raw: Mapping[str, Any], *, source: object) -> ModelConfig:
    raw = {**_ABSENT_MISTRAL, **raw, "attention_bias": False, "mlp_bias": False}
    return read_config("mistral", raw, source=source, windows=_all_windows(raw, source=source))


def _mistral_from_gguf(
    fields: Mapping[str, Any], kinds: Mapping[str, str], factors: tuple[float, ...], *, source: object
) -> ModelConfig:
    header = Header(fields, kinds, source=source)
    windows = (header.field("attention.sliding_window"),) * header.field("block_count")
    return header.config("mistral", factors=factors, windows=windows)


def _mixtral_from_hf(raw: Mapping[str, Any], *, source: object) -> ModelConfig:
    raw = {**_ABSENT_MIXTRAL, **raw, "attention_bias": False, "mlp_bias": False}
    return read_config(
        "mixtral",
        raw,
        source=source,
        windows=_all_windows(raw, source=source),
        num_experts=raw["num_local_experts"],
        experts_per_token=raw["num_experts_per_tok"],
    )


def _mixtral_from_gguf(
    fields: Mapping[str, Any], kinds: Mapping[str, str], factors: tuple[float, ...], *, source: object
) -> ModelConfig:
    header = Header(fields, kinds, source=source)
    return header.config(
        "mixtral",
        factors=factors,
        num_experts=header.field("expert_count"),
        experts_per_token=header.field("expert_used_count"),
    )


def _mixtral_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {_ROUTER: (config.num_experts, hidden)}
    shapes["input_layernorm.weight"] = shapes["post_attention_layernorm.weight"] = (hidden,)
    for index in range(config.num_experts):
        for name, shape in (("w1", (inner, hidden)), ("w3", (inner, hidden)), ("w2", (hidden, inner))):
            shapes[f"{_EXPERT}{index}.{name}.weight"] = shape
    return shapes | attention_shapes(config)


def _mixtral_locate(name: str, names: frozenset[str], config: ModelConfig, *, is_gguf: bool) -> Place:
    """Find an expert by itself, as most files have it, or within a stack of all of them.

    Stacked are newer GGUF files, and what transformers 5 writes if told not to keep the original format.
    """
    block, dot, rest = name.partition(f".{_EXPERT}")
    if not dot:
        renamed = gguf_name(name, _MIXTRAL_GGUF_NAMES) if is_gguf else name.replace("block_sparse_moe", "mlp")
        return Place(name if name in names else renamed)
    index, matrix = int(rest.split(".")[0]), rest.split(".")[1]
    if is_gguf:
        stem = f"blk.{block.rpartition('.')[2]}.{_GGUF_EXPERTS[matrix]}"
        alone, stacked = f"{stem}.{index}.weight", Place(f"{stem}_exps.weight", index, config.num_experts)
    else:
        alone = name
        if matrix == "w2":
            stacked = Place(f"{block}.mlp.experts.down_proj", index, config.num_experts)
        else:  # each expert's gate stands on its up
            part = 2 * index + (matrix == "w3")
            stacked = Place(f"{block}.mlp.experts.gate_up_proj", part, 2 * config.num_experts)
    return stacked if stacked.name in names else Place(alone)


def _mixtral_assemble(tensors: dict[str, Weight], config: ModelConfig, index: int) -> BlockParts:
    return BlockParts(
        norm=vector(tensors, "input_layernorm.weight"),
        feed_norm=vector(tensors, "post_attention_layernorm.weight"),
        qkv=affine(tensors, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        out=affine(tensors, "self_attn.o_proj"),
        feeds=tuple(
            feed(tensors, f"{_EXPERT}{expert}.w1", f"{_EXPERT}{expert}.w3", f"{_EXPERT}{expert}.w2")
            for expert in range(config.num_experts)
        ),
        router=vector(tensors, _ROUTER),
    )


MISTRAL = Family(
    name="mistral",
    from_hf=_mistral_from_hf,
    from_gguf=_mistral_from_gguf,
    block_shapes=block_shapes,
    end_shapes=end_shapes,
    locate=locate,
    undo_gguf=undo_permutation,
    assemble=assemble,
)
MIXTRAL = Family(
    name="mixtral",
    from_hf=_mixtral_from_hf,
    from_gguf=_mixtral_from_gguf,
    block_shapes=_mixtral_shapes,
    end_shapes=end_shapes,
    locate=_mixtral_locate,
    undo_gguf=undo_permutation,
    assemble=_mixtral_assemble,
)
