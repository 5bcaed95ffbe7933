"""GGUF files of the tiny models of `tests.families`, with the gguf package's writer and its table of names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import torch
from gguf.quants import dequantize, quantize

from tests.families import tiny_model

ARCHITECTURES = {
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}
"""The families that a GGUF file can hold, besides Llama itself (see `tests.builders.make_gguf`)."""

_PLAIN = {"use_sliding_window": False}
_SIX = {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
_SETTINGS: dict[str, dict[str, Any]] = {
    "qwen2": _PLAIN,
    "gemma2": {"query_pre_attn_scalar": 32, "tie_word_embeddings": True},
    "gemma3_text": {**_SIX, "query_pre_attn_scalar": 32},
}
"""Where a GGUF file cannot say all that a `config.json` can: scales are the head size's, every sixth block sees all."""


def make_family_gguf(path: Path, model_type: str, *, quant: str = "F32", stacked: bool = True) -> Any:
    """Write a tiny model as a GGUF file and return it; its matrices' numbers are those that `quant` can hold.

    Args:
        path: Of the file.
        model_type: One of ARCHITECTURES.
        quant: Of the matrices.
        stacked: Whether experts lie in one tensor, as newer files have them.
    """
    model, arch = tiny_model(model_type, **_SETTINGS.get(model_type, {})), ARCHITECTURES[model_type]
    config = model.config
    writer = gguf.GGUFWriter(str(path), gguf.MODEL_ARCH_NAMES[arch])
    _write_fields(writer, config)
    kind = gguf.GGMLQuantizationType[quant]
    names = gguf.TensorNameMap(arch, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        raw = kind if tensor.ndim > 1 and ".gate.weight" not in name else gguf.GGMLQuantizationType.F32
        tensor.copy_(torch.from_numpy(dequantize(quantize(tensor.numpy(), raw), raw)))
        for stored, part in _parts(name, tensor, config, names, stacked).items():
            writer.add_tensor(stored, quantize(part.numpy(), raw), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _write_fields(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_token_list([f"token {index}" for index in range(config.vocab_size)])
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if config.model_type == "gemma3_text":
        writer.add_float32("gemma3.rope.freq_base_swa", config.rope_parameters["sliding_attention"]["rope_theta"])
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.model_type == "mixtral":
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)


def _parts(
    name: str, tensor: torch.Tensor, config: Any, names: gguf.TensorNameMap, stacked: bool
) -> dict[str, torch.Tensor]:
    """What a tensor of the model becomes in the file."""
    if ".mlp.experts." in name:
        stem = f"blk.{name.split('.')[2]}"
        gate_up = dict(zip(("gate", "up"), tensor.chunk(2, dim=1), strict=True))
        found = gate_up if name.endswith("gate_up_proj") else {"down": tensor}
        if stacked:
            return {f"{stem}.ffn_{part}_exps.weight": numbers.contiguous() for part, numbers in found.items()}
        alone = {(part, index): one for part, numbers in found.items() for index, one in enumerate(numbers)}
        return {f"{stem}.ffn_{part}.{index}.weight": one.contiguous() for (part, index), one in alone.items()}
    stored = names.get_name(name.replace(".mlp.gate.", ".block_sparse_moe.gate."), try_suffixes=(".weight", ".bias"))
    assert stored is not None, name
    if "gemma" in config.model_type and name.endswith("norm.weight"):
        return {stored: tensor + 1}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None or config.model_type not in ("mistral", "mixtral"):
        return {stored: tensor}
    rows = torch.arange(tensor.shape[0]).view(heads, 2, -1).transpose(1, 2).reshape(-1)
    return {stored: tensor[rows]}
