"""Gemma 2 (soft caps, every other block with a window; arXiv:2408.00118) and Gemma 3's text (arXiv:2503.19786).

Both norm each half's output as well, scale the embeddings, and store their norms' weights less one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from swarm.blocks.config import ModelConfig, Rope
from swarm.blocks.families.family import EMBEDDING, HEAD, Family, Place
from swarm.blocks.families.gguf_header import Header
from swarm.blocks.families.hf_config import read_config, read_rope, read_windows
from swarm.blocks.families.wiring import (
    GGUF_NAMES,
    affine,
    attention_shapes,
    end_shapes,
    feed,
    feed_shapes,
    gguf_name,
    head_norm_shapes,
    vector,
)
from swarm.blocks.parts import BlockParts
from swarm.blocks.weights import Weight
from swarm.errors import UnsupportedModel

_ABSENT = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_ABSENT_GEMMA3 = {
    **_ABSENT,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "sliding_window_pattern": 6,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}
_GLOBAL_THETA, _LOCAL_THETA = 1e6, 1e4
"""Of Gemma 3, where the file does not say."""

_GEMMA2_27B, _GEMMA3_27B = 46, 62
"""Blocks of the two models whose attention scale is not the head size's; GGUF files do not tell it (llama.cpp)."""

_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
_GGUF_NAMES = {
    **GGUF_NAMES,
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_PREFIXES = ("model.", "model.language_model.", "language_model.model.")
"""How files call what is canonically `model.`: a text model's, and those of a model that also sees."""


_KINDS = ("full_attention", "sliding_attention")


def _alternating(count: int, pattern: int) -> list[str]:
    """Every `pattern`-th block sees all."""
    return ["sliding_attention" if (index + 1) % pattern else "full_attention" for index in range(count)]


def _read(family: str, raw: Mapping[str, Any], *, source: object, **own: Any) -> ModelConfig:
    if raw.get("use_bidirectional_attention"):
        raise UnsupportedModel(f"{source}: attention in both directions, which is not for generating text")
    return read_config(
        family,
        raw,
        source=source,
        act="hidden_activation",
        attention_scale=raw["query_pre_attn_scalar"] ** -0.5,
        attention_softcap=raw["attn_logit_softcapping"] or 0.0,
        logits_softcap=raw["final_logit_softcapping"] or 0.0,
        embedding_scale=raw["hidden_size"] ** 0.5,
        **own,
    )


def _gemma2_from_hf(raw: Mapping[str, Any], *, source: object) -> ModelConfig:
    raw = {**_ABSENT, **raw}
    windows = read_windows(raw, _alternating(raw["num_hidden_layers"], 2), source=source)
    return _read("gemma2", raw, source=source, windows=windows)


def _gemma3_from_hf(raw: Mapping[str, Any], *, source: object) -> ModelConfig:
    if "text_config" in raw:  # a model that also sees: we run its text half
        outer = {name: raw[name] for name in ("quantization_config", "dtype", "torch_dtype") if name in raw}
        raw = {**outer, **{name: value for name, value in raw["text_config"].items() if value is not None}}
    raw = {**_ABSENT_GEMMA3, **raw}
    if raw["attn_logit_softcapping"]:
        raise UnsupportedModel(f"{source}: a soft cap on Gemma 3's attention, which transformers ignores as well")
    count, pattern = raw["num_hidden_layers"], raw.get("sliding_window_pattern") or 6
    ropes = raw.get("rope_parameters") or {}
    wide, near = ropes.get("full_attention") or raw.get("rope_scaling") or {}, ropes.get("sliding_attention") or {}
    return _read(
        "gemma3_text",
        raw,
        source=source,
        windows=read_windows(raw, _alternating(count, pattern), source=source),
        rope=read_rope(wide, theta=raw.get("rope_theta") or _GLOBAL_THETA, source=source),
        local_rope=read_rope(near, theta=raw.get("rope_local_base_freq") or _LOCAL_THETA, source=source),
    )


def _read_gguf(family: str, header: Header, *, wide_blocks: int, pattern: int, **own: Any) -> ModelConfig:
    """`wide_blocks`: of the model whose scale is that of the hidden size divided among the heads."""
    hidden, count = header.field("embedding_length"), header.field("block_count")
    scaled_by = hidden // header.field("attention.head_count") if count == wide_blocks else header.head_size
    told = header.field("attention.sliding_window_pattern", pattern)  # every so many blocks, or a flag for each
    kinds = _alternating(count, told) if isinstance(told, int) else [_KINDS[bool(flag)] for flag in told]
    window = header.field("attention.sliding_window")
    return header.config(
        family,
        windows=tuple(window if kind == "sliding_attention" else 0 for kind in kinds),
        activation="gelu_tanh",
        attention_scale=scaled_by**-0.5,
        attention_softcap=float(header.field("attn_logit_softcapping", 0.0)),
        logits_softcap=float(header.field("final_logit_softcapping", 0.0)),
        embedding_scale=hidden**0.5,
        **own,
    )


def _gemma2_from_gguf(
    fields: Mapping[str, Any], kinds: Mapping[str, str], factors: tuple[float, ...], *, source: object
) -> ModelConfig:
    header = Header(fields, kinds, source=source)
    return _read_gguf("gemma2", header, wide_blocks=_GEMMA2_27B, pattern=2, factors=factors)


def _gemma3_from_gguf(
    fields: Mapping[str, Any], kinds: Mapping[str, str], factors: tuple[float, ...], *, source: object
) -> ModelConfig:
    header = Header({f"{fields['general.architecture']}.rope.freq_base": _GLOBAL_THETA, **fields}, kinds, source=source)
    local = Rope(theta=float(header.field("rope.freq_base_swa", _LOCAL_THETA)))
    return _read_gguf("gemma3_text", header, wide_blocks=_GEMMA3_27B, pattern=6, factors=factors, local_rope=local)


def _gemma2_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    norms: dict[str, tuple[int, ...]] = {f"{name}.weight": (config.hidden_size,) for name in _NORMS}
    return norms | attention_shapes(config) | feed_shapes(config)


def _gemma3_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return _gemma2_shapes(config) | head_norm_shapes(config)


def _locate(name: str, names: frozenset[str], config: ModelConfig, *, is_gguf: bool) -> Place:
    if is_gguf:
        return Place(gguf_name(name, _GGUF_NAMES))
    stem = EMBEDDING.removeprefix("model.")
    prefix = next((prefix for prefix in _PREFIXES if prefix + stem in names), "model.")
    if name == HEAD:
        return Place(next((head for head in (HEAD, f"language_model.{HEAD}") if head in names), HEAD))
    return Place(prefix + name.removeprefix("model."))


def _undo_gguf(name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    """Take the one off the norms again, which the conversion to GGUF adds."""
    return tensor - 1 if name.endswith("norm.weight") else tensor


def _assemble(tensors: dict[str, Weight], config: ModelConfig, index: int) -> BlockParts:
    def norm(name: str) -> Tensor | None:
        return vector(tensors, f"{name}.weight") + 1 if f"{name}.weight" in tensors else None

    before, after_norm, before_feed, after_feed_norm = (vector(tensors, f"{name}.weight") + 1 for name in _NORMS)
    return BlockParts(
        norm=before,
        feed_norm=before_feed,
        after_norm=after_norm,
        after_feed_norm=after_feed_norm,
        query_norm=norm("self_attn.q_norm"),
        key_norm=norm("self_attn.k_norm"),
        qkv=affine(tensors, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        out=affine(tensors, "self_attn.o_proj"),
        feeds=(feed(tensors, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),),
    )


GEMMA2 = Family(
    name="gemma2",
    from_hf=_gemma2_from_hf,
    from_gguf=_gemma2_from_gguf,
    block_shapes=_gemma2_shapes,
    end_shapes=end_shapes,
    locate=_locate,
    undo_gguf=_undo_gguf,
    assemble=_assemble,
    norm_shift=1.0,
)
GEMMA3 = Family(
    name="gemma3_text",
    from_hf=_gemma3_from_hf,
    from_gguf=_gemma3_from_gguf,
    block_shapes=_gemma3_shapes,
    end_shapes=end_shapes,
    locate=_locate,
    undo_gguf=_undo_gguf,
    assemble=_assemble,
    norm_shift=1.0,
)
