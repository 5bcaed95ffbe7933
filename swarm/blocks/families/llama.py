"""The Llama family: RMS norm, rotary positions, grouped queries, SwiGLU (arXiv:2302.13971, arXiv:2307.09288)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from swarm.blocks.attention import Batch, attend
from swarm.blocks.config import ModelConfig, Rope
from swarm.blocks.families.family import EMBEDDING, FINAL_NORM, HEAD, Family
from swarm.blocks.kv_cache import KVCache
from swarm.blocks.linear import Linear, LinearFactory
from swarm.errors import CheckpointCorrupt, UnsupportedModel

_ROPE_KINDS = ("default", "linear", "llama3", "yarn")
"""Kinds whose frequencies do not depend on how long the sequence has become."""

_PLAIN_KINDS = ("bfloat16", "float16", "float32")

_GGUF_NAMES = {
    EMBEDDING: "token_embd.weight",
    FINAL_NORM: "output_norm.weight",
    HEAD: "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _block_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    queries, kv = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    attention = {"q_proj": (queries, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden)}
    attention["o_proj"] = (hidden, queries)
    mlp = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    shapes: dict[str, tuple[int, ...]] = {}
    shapes["input_layernorm.weight"] = shapes["post_attention_layernorm.weight"] = (hidden,)
    for part, linears, has_bias in (("self_attn", attention, config.attention_bias), ("mlp", mlp, config.mlp_bias)):
        for name, shape in linears.items():
            shapes[f"{part}.{name}.weight"] = shape
            if has_bias:
                shapes[f"{part}.{name}.bias"] = shape[:1]
    return shapes


def _end_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    table = (config.vocab_size, config.hidden_size)
    ends: dict[str, tuple[int, ...]] = {EMBEDDING: table, FINAL_NORM: (config.hidden_size,)}
    return ends if config.tie_embeddings else ends | {HEAD: table}


def _from_hf(raw: Mapping[str, Any], *, source: object) -> ModelConfig:
    if raw.get("hidden_act", "silu") != "silu":
        raise UnsupportedModel(f"{source}: activation {raw['hidden_act']!r}; supported: 'silu'")
    if raw.get("quantization_config"):
        raise UnsupportedModel(f"{source}: a quantised safetensors checkpoint; use the original one or a GGUF file")
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
    theta = float(rope.pop("rope_theta", None) or raw.get("rope_theta") or 10000.0)
    rope.pop("type", None)
    if kind not in _ROPE_KINDS:
        raise UnsupportedModel(f"{source}: rotary kind {kind!r}; supported: {', '.join(_ROPE_KINDS)}")
    eos = raw.get("eos_token_id")
    num_heads, hidden = raw["num_attention_heads"], raw["hidden_size"]
    return ModelConfig(
        family="llama",
        hidden_size=hidden,
        num_blocks=raw["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=raw.get("num_key_value_heads") or num_heads,
        head_size=raw.get("head_dim") or hidden // num_heads,
        intermediate_size=raw["intermediate_size"],
        rms_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope=Rope(theta=theta, kind=kind, parameters=tuple(sorted(rope.items()))),
        context_length=raw.get("max_position_embeddings", 2048),
        vocab_size=raw["vocab_size"],
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
        attention_bias=bool(raw.get("attention_bias", False)),
        mlp_bias=bool(raw.get("mlp_bias", False)),
        stored_dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        bos_id=raw.get("bos_token_id"),
        eos_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        pad_id=raw.get("pad_token_id"),
    )


def _from_gguf(
    fields: Mapping[str, Any], kinds: Mapping[str, str], factors: tuple[float, ...], *, source: object
) -> ModelConfig:
    def field(name: str, default: Any = None) -> Any:
        value = fields.get(f"llama.{name}", default)
        if value is None:
            raise CheckpointCorrupt(f"{source}: the header lacks llama.{name}: convert the file again")
        return value

    if field("expert_count", 0):
        raise UnsupportedModel(f"{source}: a mixture of experts; supported: dense Llama models")
    hidden, num_heads = field("embedding_length"), field("attention.head_count")
    head_size = field("attention.key_length", hidden // num_heads)
    if field("rope.dimension_count", head_size) != head_size:
        raise UnsupportedModel(f"{source}: only part of a head is rotated; supported: whole heads")
    kind = field("rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise UnsupportedModel(f"{source}: rotary scaling {kind!r} in a GGUF file; supported: 'none', 'linear'")
    parameters = (("factor", float(field("rope.scaling.factor"))),) if kind == "linear" else ()
    stored = sorted({kinds.get(f"blk.0.{name}.weight", "") for name in ("attn_q", "ffn_gate", "ffn_down")})
    eos = fields.get("tokenizer.ggml.eos_token_id")
    return ModelConfig(
        family="llama",
        hidden_size=hidden,
        num_blocks=field("block_count"),
        num_heads=num_heads,
        num_kv_heads=field("attention.head_count_kv", num_heads),
        head_size=head_size,
        intermediate_size=field("feed_forward_length"),
        rms_eps=float(field("attention.layer_norm_rms_epsilon")),
        rope=Rope(
            theta=float(field("rope.freq_base", 10000.0)),
            kind="linear" if parameters else "default",
            parameters=parameters,
            factors=factors,
        ),
        context_length=field("context_length"),
        vocab_size=field("vocab_size", 0) or field("vocab_rows"),
        tie_embeddings="output.weight" not in kinds,
        attention_bias="blk.0.attn_q.bias" in kinds,
        mlp_bias="blk.0.ffn_gate.bias" in kinds,
        stored_dtype=stored[0] if len(stored) == 1 and stored[0] in _PLAIN_KINDS else "quantised",
        bos_id=fields.get("tokenizer.ggml.bos_token_id"),
        eos_ids=() if eos is None else (eos,),
        pad_id=fields.get("tokenizer.ggml.padding_token_id"),
    )


def _undo_gguf(name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    """Order the rows of q and k as in Hugging Face's files: first halves, then second halves of each head.

    The conversion interleaves the two halves, as rotating neighbours wants it (llama.cpp, convert_hf_to_gguf.py).
    """
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.view(heads, config.head_size // 2, 2, -1).transpose(1, 2).reshape(tensor.shape)


class LlamaBlock:
    """One block: fused q, k, v; rotary attention; SwiGLU; two residuals."""

    def __init__(
        self, tensors: dict[str, Tensor], config: ModelConfig, make_linear: LinearFactory, dtype: torch.dtype
    ) -> None:
        def linear(*names: str) -> Linear:
            weights = [tensors.pop(f"{name}.weight").to(dtype) for name in names]
            biases = [tensors.pop(f"{name}.bias").to(dtype) for name in names if f"{name}.bias" in tensors]
            weight = weights[0] if len(weights) == 1 else torch.cat(weights)
            return make_linear(weight, torch.cat(biases) if biases else None)

        self._config = config
        self._norm = tensors.pop("input_layernorm.weight").to(dtype)
        self._mlp_norm = tensors.pop("post_attention_layernorm.weight").to(dtype)
        self._qkv = linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self._out = linear("self_attn.o_proj")
        self._gate = linear("mlp.gate_proj")
        self._up = linear("mlp.up_proj")
        self._down = linear("mlp.down_proj")

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        linears = (self._qkv, self._out, self._gate, self._up, self._down)
        return sum(linear.weight_bytes for linear in linears) + self._norm.nbytes + self._mlp_norm.nbytes

    def forward(self, hidden: Tensor, batch: Batch, cache: KVCache, index: int) -> Tensor:
        """Run the block: (T, D) to (T, D); writes keys and values into the cache's block `index`."""
        config = self._config
        heads, kv = config.num_heads, config.num_kv_heads
        qkv = self._qkv(F.rms_norm(hidden, self._norm.shape, self._norm, config.rms_eps))
        qkv = qkv.view(-1, heads + 2 * kv, config.head_size)  # (T, H + 2K, E)
        rotated = batch.rotation.apply(qkv[:, : heads + kv])  # (T, H + K, E)
        keys, values = cache.keys[index], cache.values[index]
        batch.store(keys, rotated[:, heads:])
        batch.store(values, qkv[:, heads + kv :])
        attended = attend(rotated[:, :heads], keys, values, batch)  # (T, H * E)
        hidden = self._out(attended, add=hidden)
        inner = F.rms_norm(hidden, self._mlp_norm.shape, self._mlp_norm, config.rms_eps)
        gated = F.silu(self._gate(inner), inplace=True).mul_(self._up(inner))
        return self._down(gated, add=hidden)


LLAMA = Family(
    name="llama",
    from_hf=_from_hf,
    from_gguf=_from_gguf,
    block_shapes=_block_shapes,
    end_shapes=_end_shapes,
    gguf_names=_GGUF_NAMES,
    undo_gguf=_undo_gguf,
    build_block=LlamaBlock,
)
