"""What a family must say of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from swarm.blocks.config import ModelConfig
from swarm.blocks.parts import BlockParts
from swarm.blocks.weights import Weight

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


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
        """Return `tensor`, canonical `name`, in Hugging Face's order of rows.

        Matrices change the order of their rows only, so this also serves codes and scales of quantised ones.
        """
        ...


class Assembler(Protocol):
    """Makes the parts of a block of its tensors."""

    def __call__(self, tensors: dict[str, Weight], config: ModelConfig, index: int) -> BlockParts:
        """Wire block `index` of the model; takes the tensors (canonical names without prefix) out as it goes."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file keeps a tensor: one of `parts` equal runs of rows of what it calls `name`."""

    name: str
    part: int = 0
    parts: int = 1


class Locator(Protocol):
    """Says where a file keeps a tensor."""

    def __call__(self, name: str, names: frozenset[str], config: ModelConfig, *, is_gguf: bool) -> Place:
        """Return the place of the tensor of this canonical name, in a checkpoint that holds `names`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture. Canonical names are those of Hugging Face's files, blocks under `model.layers.N.`.

    Attributes:
        name: As in `model_type`.
        from_hf: See `HFParser`.
        from_gguf: See `GGUFParser`; None if there are no such GGUF files.
        block_shapes: One block's tensors, names without the `model.layers.N.` prefix.
        end_shapes: Embedding, final norm, and the head if it is not tied.
        locate: See `Locator`.
        undo_gguf: See `GGUFLayout`.
        assemble: See `Assembler`; None if transformers' own layer runs the block.
        norm_shift: What the norms' weights lack in the checkpoint.
    """

    name: str
    from_hf: HFParser
    from_gguf: GGUFParser | None
    block_shapes: ShapeTable
    end_shapes: ShapeTable
    locate: Locator
    undo_gguf: GGUFLayout
    assemble: Assembler | None
    norm_shift: float = 0.0
