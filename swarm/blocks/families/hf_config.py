"""Reading `config.json`: what the families' configurations have in common.

A setting that the file leaves out means what transformers' own class means by that, so each family brings its table
of such values; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from swarm.blocks.config import ModelConfig, Rope
from swarm.errors import UnsupportedModel

ROPE_KINDS = ("default", "linear", "llama3", "yarn")
"""Kinds whose frequencies do not depend on how long the sequence has become."""

ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
"""What we compute, by transformers' name."""

_KINDS = {"sliding_attention": True, "full_attention": False}


def read_config(
    family: str, raw: Mapping[str, Any], *, source: object, act: str = "hidden_act", **own: Any
) -> ModelConfig:
    """Flatten a `config.json` whose absent settings are filled in.

    Args:
        family: Its name.
        raw: The settings.
        source: The file, for messages.
        act: The name of the setting that holds the activation.
        own: Fields of `ModelConfig` that the family found itself.

    Raises:
        UnsupportedModel: A quantised checkpoint, or an activation or rope that we do not compute.
        KeyError, TypeError, ValueError: A setting is missing or wrong.
    """
    if raw.get("quantization_config"):
        raise UnsupportedModel(f"{source}: a quantised safetensors checkpoint; use the original one or a GGUF file")
    if raw[act] not in ACTIVATIONS:
        raise UnsupportedModel(f"{source}: activation {raw[act]!r}; supported: {', '.join(ACTIVATIONS)}")
    eos = raw.get("eos_token_id")
    num_heads, hidden = raw["num_attention_heads"], raw["hidden_size"]
    found: dict[str, Any] = {
        "hidden_size": hidden,
        "num_blocks": raw["num_hidden_layers"],
        "num_heads": num_heads,
        "num_kv_heads": raw.get("num_key_value_heads") or num_heads,
        "head_size": raw.get("head_dim") or hidden // num_heads,
        "intermediate_size": raw["intermediate_size"],
        "rms_eps": float(raw["rms_norm_eps"]),
        "context_length": raw["max_position_embeddings"],
        "vocab_size": raw["vocab_size"],
        "tie_embeddings": bool(raw["tie_word_embeddings"]),
        "attention_bias": bool(raw.get("attention_bias")),
        "mlp_bias": bool(raw.get("mlp_bias")),
        "stored_dtype": str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        "bos_id": raw.get("bos_token_id"),
        "eos_ids": () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        "pad_id": raw.get("pad_token_id"),
        "activation": ACTIVATIONS[raw[act]],
    }
    if "rope" not in own:
        found["rope"] = read_rope(_rope_settings(raw), theta=raw.get("rope_theta"), source=source)
    return ModelConfig(family=family, **found, **own)


def read_rope(settings: Mapping[str, Any], *, theta: float | None, source: object) -> Rope:
    """Read a rope's settings as transformers 5 writes them, or as older ones did; `theta` is used if they lack it.

    Raises:
        UnsupportedModel: A kind that we do not compute.
    """
    rope = dict(settings)
    old_kind = rope.pop("type", None)
    kind = rope.pop("rope_type", None) or old_kind or "default"
    if kind not in ROPE_KINDS:
        raise UnsupportedModel(f"{source}: rotary kind {kind!r}; supported: {', '.join(ROPE_KINDS)}")
    base = float(rope.pop("rope_theta", None) or theta or 10000.0)
    if rope.pop("partial_rotary_factor", None) not in (None, 1, 1.0):
        raise UnsupportedModel(f"{source}: only part of a head is rotated; supported: whole heads")
    return Rope(theta=base, kind=kind, parameters=tuple(sorted(rope.items())))


def read_windows(raw: Mapping[str, Any], kinds: Iterable[str], *, source: object) -> tuple[int, ...]:
    """Return the window of each block, `()` if none has any; `kinds` holds where the file has no `layer_types`.

    Raises:
        UnsupportedModel: A kind of block that is neither of the two.
    """
    chosen = list(raw.get("layer_types") or kinds)
    if unknown := sorted(set(chosen) - set(_KINDS)):
        raise UnsupportedModel(f"{source}: blocks of kind {', '.join(unknown)}; supported: {', '.join(_KINDS)}")
    window = raw.get("sliding_window")
    if window is None or not any(_KINDS[kind] for kind in chosen):
        return ()
    return tuple(window if _KINDS[kind] else 0 for kind in chosen)


def _rope_settings(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    return found
