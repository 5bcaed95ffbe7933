"""What a family must say of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from swarm.blocks.attention import Batch
from swarm.blocks.config import ModelConfig
from swarm.blocks.kv_cache import KVCache
from swarm.blocks.linear import LinearFactory

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


class Block(Protocol):
    """One transformer block, its weights loaded and packed."""

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        ...

    def forward(self, hidden: Tensor, batch: Batch, cache: KVCache, index: int) -> Tensor:
        """Run the block: (T, D) to (T, D); writes keys and values into the cache's block `index`."""
        ...


class HFParser(Protocol):
    """Reads a `config.json`."""

    def __call__(self, raw: Mapping[str, Any], *, source: object) -> ModelConfig:
        """Return the flattened configuration; raises UnsupportedModel or CheckpointCorrupt."""
        ...


class GGUFParser(Protocol):
    """Reads the fields of a GGUF header."""

    def __call__(
        self, fields: Mapping[str, Any], kinds: Mapping[str, str], factors: tuple[float, ...], *, source: object
    ) -> ModelConfig:
        """Return the flattened configuration.

        `kinds` is the stored format of each tensor, `factors` the content of `rope_freqs.weight`.
        """
        ...


class ShapeTable(Protocol):
    """Shapes by canonical name."""

    def __call__(self, config: ModelConfig) -> dict[str, tuple[int, ...]]:
        """Return what the checkpoint must hold."""
        ...


class GGUFLayout(Protocol):
    """Undoes what the conversion to GGUF did to a tensor."""

    def __call__(self, name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
        """Return `tensor`, canonical `name`, in Hugging Face's order of rows."""
        ...


class BlockBuilder(Protocol):
    """Makes a block of its tensors."""

    def __call__(
        self, tensors: dict[str, Tensor], config: ModelConfig, make_linear: LinearFactory, dtype: torch.dtype
    ) -> Block:
        """Pack the tensors (canonical names without prefix); takes them out of the dictionary as it goes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture.

    Attributes:
        name: As in `model_type` and `general.architecture`.
        from_hf: See `HFParser`.
        from_gguf: See `GGUFParser`.
        block_shapes: One block's tensors, names without the `model.layers.N.` prefix.
        end_shapes: Embedding, final norm, and the head if it is not tied.
        gguf_names: GGUF's name of each canonical one, both without their block prefix.
        undo_gguf: See `GGUFLayout`.
        build_block: See `BlockBuilder`.
    """

    name: str
    from_hf: HFParser
    from_gguf: GGUFParser
    block_shapes: ShapeTable
    end_shapes: ShapeTable
    gguf_names: Mapping[str, str]
    undo_gguf: GGUFLayout
    build_block: BlockBuilder
