"""What the families share: names, shapes and the way from tensors to a block's parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from swarm.blocks.config import ModelConfig
from swarm.blocks.families.family import EMBEDDING, FINAL_NORM, HEAD, Place
from swarm.blocks.parts import Affine, BlockParts, Feed
from swarm.blocks.weights import QuantizedWeight, Weight, stack

Shapes = dict[str, tuple[int, ...]]

GGUF_NAMES = {
    EMBEDDING: "token_embd.weight",
    FINAL_NORM: "output_norm.weight",
    HEAD: "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""GGUF's name of each canonical one, both without their block prefix (names: gguf.TensorNameMap)."""

LAYERS = "model.layers."
"""Before the index of a block in canonical names."""


def end_shapes(config: ModelConfig) -> Shapes:
    """Shapes of embedding, final norm, and head if it is not tied."""
    table = (config.vocab_size, config.hidden_size)
    ends: Shapes = {EMBEDDING: table, FINAL_NORM: (config.hidden_size,)}
    return ends if config.tie_embeddings else ends | {HEAD: table}


def block_shapes(config: ModelConfig) -> Shapes:
    """Shapes of a block of two norms, attention and a gated feed-forward half."""
    norms: Shapes = dict.fromkeys(("input_layernorm.weight", "post_attention_layernorm.weight"), (config.hidden_size,))
    return norms | attention_shapes(config) | feed_shapes(config)


def attention_shapes(config: ModelConfig) -> Shapes:
    """Shapes of attention's four matrices, and their biases if they have any."""
    hidden, size = config.hidden_size, config.head_size
    queries, kv = config.num_heads * size, config.num_kv_heads * size
    shapes: Shapes = {"q_proj": (queries, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden)}
    return _affine_shapes("self_attn", {**shapes, "o_proj": (hidden, queries)}, has_bias=config.attention_bias)


def head_norm_shapes(config: ModelConfig) -> Shapes:
    """Shapes of the norms of query and key heads."""
    return {"self_attn.q_norm.weight": (config.head_size,), "self_attn.k_norm.weight": (config.head_size,)}


def feed_shapes(config: ModelConfig) -> Shapes:
    """Shapes of a gated feed-forward half."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: Shapes = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    return _affine_shapes("mlp", shapes, has_bias=config.mlp_bias)


def _affine_shapes(part: str, shapes: Shapes, *, has_bias: bool) -> Shapes:
    found: Shapes = {}
    for name, shape in shapes.items():
        found[f"{part}.{name}.weight"] = shape
        if has_bias:
            found[f"{part}.{name}.bias"] = shape[:1]
    return found


def assemble(tensors: dict[str, Weight], config: ModelConfig, index: int) -> BlockParts:
    """Wire a block as Llama's; head norms where there are such tensors."""
    return BlockParts(
        norm=vector(tensors, "input_layernorm.weight"),
        feed_norm=vector(tensors, "post_attention_layernorm.weight"),
        query_norm=vector(tensors, "self_attn.q_norm.weight") if "self_attn.q_norm.weight" in tensors else None,
        key_norm=vector(tensors, "self_attn.k_norm.weight") if "self_attn.k_norm.weight" in tensors else None,
        qkv=affine(tensors, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        out=affine(tensors, "self_attn.o_proj"),
        feeds=(feed(tensors, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),),
    )


def affine(tensors: dict[str, Weight], *names: str) -> Affine:
    """Take the matrices of these names, put under each other, and their biases."""
    weight = stack([tensors.pop(f"{name}.weight") for name in names])
    biases = [vector(tensors, f"{name}.bias") for name in names if f"{name}.bias" in tensors]
    return Affine(weight=weight, bias=torch.cat(biases) if biases else None)


def feed(tensors: dict[str, Weight], gate: str, up: str, down: str) -> Feed:
    """Take the three matrices of a feed-forward half."""
    return Feed(gate=affine(tensors, gate), up=affine(tensors, up), down=affine(tensors, down))


def vector(tensors: dict[str, Weight], name: str) -> Tensor:
    """Take a norm, bias or router, which are never quantised; float32."""
    taken = tensors.pop(name)
    assert not isinstance(taken, QuantizedWeight)
    return taken.to(torch.float32)


def locate(name: str, names: frozenset[str], config: ModelConfig, *, is_gguf: bool) -> Place:
    """Say where files keep what Llama's block is made of."""
    return Place(gguf_name(name) if is_gguf else name)


def gguf_name(name: str, more: Mapping[str, str] = GGUF_NAMES) -> str:
    """Return GGUF's name of a canonical one; `more` as `GGUF_NAMES`."""
    if not name.startswith(LAYERS):
        return more.get(name, name)
    index, _, rest = name.removeprefix(LAYERS).partition(".")
    part, _, kind = rest.rpartition(".")
    return f"blk.{index}.{more.get(part, part)}.{kind}"


def keep_gguf(name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    """Return the tensor as it is: the conversion to GGUF left it alone."""
    return tensor
