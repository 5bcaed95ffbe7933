"""Model families: the names that checkpoints use, and how their tensors make a block.

A new one is a `Family` in a file of its own: what `config.json` (and a GGUF header) says, flattened to a `ModelConfig`;
the tensors of a block with their shapes; `assemble`, which makes `BlockParts` of them. `wiring`, `hf_config` and
`gguf_header` hold what families share. Enter it in the tables below and in `tests/families.py`, which compares it with
transformers. What no family knows runs in transformers' own layers (`generic`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.blocks.families.family import Family
from swarm.blocks.families.gemma import GEMMA2, GEMMA3
from swarm.blocks.families.llama import LLAMA
from swarm.blocks.families.mistral import MISTRAL, MIXTRAL
from swarm.blocks.families.qwen import QWEN2, QWEN3
from swarm.errors import UnsupportedModel

__all__ = ["Family", "find_family", "find_gguf_family", "supported"]

_FAMILIES = {family.name: family for family in (LLAMA, QWEN2, QWEN3, MISTRAL, MIXTRAL, GEMMA2, GEMMA3)}
_BY_MODEL_TYPE = {**_FAMILIES, "gemma3": GEMMA3}
_BY_ARCHITECTURE = {"llama": LLAMA, "qwen2": QWEN2, "qwen3": QWEN3, "gemma2": GEMMA2, "gemma3": GEMMA3}


def supported() -> str:
    """Return the names of our families, as messages list them."""
    return ", ".join(sorted(_BY_MODEL_TYPE))


def find_family(name: object, *, source: object) -> Family:
    """Return the family of the `model_type` that a `config.json` names; `source` is that file.

    A name that is none of ours gets the generic family, which asks transformers, and may refuse the model then.

    Raises:
        UnsupportedModel: It is no name.
    """
    if not isinstance(name, str):
        raise UnsupportedModel(f"{source}: architecture {name!r}; supported: {supported()}")
    if name in _BY_MODEL_TYPE:
        return _BY_MODEL_TYPE[name]
    from swarm.blocks.families.generic import GENERIC  # asks transformers, whose import takes a second

    return GENERIC


def find_gguf_family(fields: Mapping[str, Any], *, source: object) -> Family:
    """Return the family of a GGUF header's fields.

    Raises:
        UnsupportedModel: We have none; the message lists the architectures that we read.
    """
    name = fields.get("general.architecture")
    if name == "llama":  # the conversion calls all of Llama's relatives so
        if fields.get("llama.expert_count"):
            return MIXTRAL
        return MISTRAL if fields.get("llama.attention.sliding_window") else LLAMA
    if isinstance(name, str) and name in _BY_ARCHITECTURE:
        return _BY_ARCHITECTURE[name]
    known = ", ".join(sorted(_BY_ARCHITECTURE))
    raise UnsupportedModel(f"{source}: architecture {name!r} in a GGUF file is not supported; supported: {known}")
