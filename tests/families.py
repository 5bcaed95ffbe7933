"""Tiny random models of many families, written by transformers: 64 wide, 4 query heads, 128 tokens, float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2}
_GEMMA = {**_GROUPED, "head_dim": 32, "sliding_window": 7, "query_pre_attn_scalar": 20, "tie_word_embeddings": False}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_GEMMA3_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
}
_GEMMA3 = {**_GEMMA, "layer_types": ["sliding_attention", "full_attention"] * 2, "rope_parameters": _GEMMA3_ROPES}
_VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}

OURS: dict[str, dict[str, Any]] = {
    "llama": {**_GROUPED, "rope_parameters": {**_LLAMA3, "original_max_position_embeddings": 64}},
    "qwen2": {**_GROUPED, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
    "qwen3": {**_GROUPED, "head_dim": 32},
    "mistral": {**_GROUPED, "sliding_window": 7},
    "mixtral": {**_GROUPED, "num_local_experts": 4},
    "gemma2": {**_GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": _GEMMA3,
    "gemma3": {
        "text_config": _GEMMA3,
        "tie_word_embeddings": False,
        "vision_config": {**_VISION, "image_size": 32, "patch_size": 8},
    },
}
"""Settings of a model of each family of ours: windows shorter than any prompt, soft caps that bite, scaled ropes."""

_OPT = {
    "tie_word_embeddings": False,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 256,
}
_GPT2 = {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 128, "n_positions": 256}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GENERIC: dict[str, dict[str, Any]] = {
    "gpt_neox": {**_SHAPE, "rotary_pct": 0.5},
    "falcon": {**_SHAPE, "alibi": False, "bias": True, "tie_word_embeddings": False},
    "opt": {**_OPT, "hidden_size": 64, "ffn_dim": 96, "word_embed_proj_dim": 32},
    "gpt2": {**_GPT2, "bos_token_id": 1, "eos_token_id": 2},
    "phi": _SHAPE,
    "stablelm": _GROUPED,
    "olmo2": _GROUPED,
    "qwen2_moe": {**_GROUPED, **_EXPERTS, "shared_expert_intermediate_size": 32},
    "cohere2": {**_GROUPED, "sliding_window": 7, "logit_scale": 1.0},
}
"""Of models that only transformers knows: learned positions, projections, parallel halves, experts, windows."""

_AROUND_ONE = ("norm", "ln_")


def tiny_config(model_type: str, **settings: Any) -> Any:
    """Return a configuration of OURS or GENERIC, changed by `settings`."""
    return AutoConfig.for_model(model_type, **{**(OURS | GENERIC)[model_type], **settings})


def tiny_model(model_type: str, **settings: Any) -> PreTrainedModel:
    """Return a random model; its weights are large enough that each part matters to the logits."""
    config = tiny_config(model_type, **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    center = 0.0 if "gemma" in model_type else 1.0  # Gemma's norms are stored less one
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            is_norm = any(part in name for part in _AROUND_ONE) and not name.endswith("bias")
            weight.copy_(center + 0.1 * torch.randn_like(weight) if is_norm else 0.2 * torch.randn_like(weight))
            if "gemma" in model_type and "embed_tokens" in name:
                weight.mul_(0.1)  # they are scaled up, and would drown all else
    model.tie_weights()
    return model


def make_tiny(folder: Path, model_type: str, **settings: Any) -> PreTrainedModel:
    """Write a random model as a Hugging Face folder and return it."""
    model = tiny_model(model_type, **settings)
    model.save_pretrained(folder)
    return model
