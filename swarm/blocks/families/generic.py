"""Every other decoder-only model with a list of layers that transformers knows: its own layers run, as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from swarm.blocks.config import ModelConfig, Rope
from swarm.blocks.families.family import Family, Place
from swarm.blocks.families.wiring import LAYERS, keep_gguf
from swarm.blocks.generic.skeleton import Skeleton
from swarm.errors import UnsupportedModel

_IGNORED = ("transformers_version", "_name_or_path", "auto_map", "torch_dtype", "dtype", "use_cache")
"""Settings that change no number, or name code that we never run."""


def _from_hf(raw: Mapping[str, Any], *, source: object) -> ModelConfig:
    if raw.get("quantization_config"):
        raise UnsupportedModel(f"{source}: a quantised safetensors checkpoint; use the original one or a GGUF file")
    settings = json.dumps({name: value for name, value in raw.items() if name not in _IGNORED}, sort_keys=True)
    try:
        skeleton = _skeleton(settings, str(source))
    except UnsupportedModel as error:
        from swarm.blocks.families import supported  # the room's door, which opens us

        more = "and models of transformers whose layers all keep keys and values"
        raise UnsupportedModel(f"{error}; supported: {supported()}, {more}") from error
    theirs = skeleton.config.get_text_config()
    eos, context = theirs.eos_token_id, getattr(theirs, "max_position_embeddings", None)
    if context is None:
        raise UnsupportedModel(f"{source}: {theirs.model_type}: it does not say how many tokens it was made for")
    return ModelConfig(
        family="generic",
        hidden_size=theirs.hidden_size,
        num_blocks=len(skeleton.layers),
        num_heads=skeleton.num_kv_heads,  # how many queries there are, only transformers' layer knows
        num_kv_heads=skeleton.num_kv_heads,
        head_size=skeleton.head_size,
        intermediate_size=getattr(theirs, "intermediate_size", None) or 4 * theirs.hidden_size,
        rms_eps=0.0,
        rope=Rope(),
        context_length=context,
        vocab_size=theirs.vocab_size,
        tie_embeddings=skeleton.is_tied,
        attention_bias=False,
        mlp_bias=False,
        stored_dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        bos_id=theirs.bos_token_id,
        eos_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        pad_id=theirs.pad_token_id,
        settings=settings,
    )


def _block_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return dict(_shapes(config.settings)[0])


def _end_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return dict(_shapes(config.settings)[1])


def _locate(name: str, names: frozenset[str], config: ModelConfig, *, is_gguf: bool) -> Place:
    """Find a tensor under the model's name for it, that of one it is tied to, or without the base model's prefix."""
    _, _, prefix, base, ties = _shapes(config.settings)
    if name.startswith(LAYERS):
        name = prefix + name.removeprefix(LAYERS)
    candidates = [name, *ties.get(name, ())]
    candidates += [known.removeprefix(base) for known in candidates]
    return Place(next((known for known in candidates if known in names), name))


@lru_cache(maxsize=2)
def _skeleton(settings: str, source: str) -> Skeleton:
    return Skeleton(settings, torch.float32, source=source)


@lru_cache(maxsize=8)
def _shapes(settings: str) -> tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]], str, str, Any]:
    """Shapes of a block and of the ends, the layers' prefix and the base model's, and other names of tied tensors."""
    skeleton = _skeleton(settings, "config.json")
    ties = {names[0]: names[1:] for names in skeleton.end_names}
    base = f"{skeleton.model.base_model_prefix}."
    return skeleton.block_shapes, skeleton.end_shapes(), skeleton.prefix, base, ties


GENERIC = Family(
    name="generic",
    from_hf=_from_hf,
    from_gguf=None,
    block_shapes=_block_shapes,
    end_shapes=_end_shapes,
    locate=_locate,
    undo_gguf=keep_gguf,
    assemble=None,
)
