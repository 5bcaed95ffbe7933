"""The Llama family: RMS norm, rotary positions, grouped queries, SwiGLU (arXiv:2302.13971, arXiv:2307.09288)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from swarm.blocks.config import ModelConfig
from swarm.blocks.families.family import Family
from swarm.blocks.families.gguf_header import Header
from swarm.blocks.families.hf_config import read_config
from swarm.blocks.families.wiring import assemble, block_shapes, end_shapes, locate

_ABSENT = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _from_hf(raw: Mapping[str, Any], *, source: object) -> ModelConfig:
    return read_config("llama", {**_ABSENT, **raw}, source=source)


def _from_gguf(
    fields: Mapping[str, Any], kinds: Mapping[str, str], factors: tuple[float, ...], *, source: object
) -> ModelConfig:
    return Header(fields, kinds, source=source).config("llama", factors=factors)


def undo_permutation(name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    """Order the rows of q and k as in Hugging Face's files: first halves, then second halves of each head.

    The conversion interleaves the two halves, as rotating neighbours wants it (llama.cpp, convert_hf_to_gguf.py).
    """
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.view(heads, config.head_size // 2, 2, -1).transpose(1, 2).reshape(tensor.shape)


LLAMA = Family(
    name="llama",
    from_hf=_from_hf,
    from_gguf=_from_gguf,
    block_shapes=block_shapes,
    end_shapes=end_shapes,
    locate=locate,
    undo_gguf=undo_permutation,
    assemble=assemble,
)
