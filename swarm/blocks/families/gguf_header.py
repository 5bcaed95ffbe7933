"""Reading a GGUF header: what the families' fields have in common (names: ggml's docs/gguf.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.blocks.config import ModelConfig, Rope
from swarm.errors import CheckpointCorrupt, UnsupportedModel

_PLAIN_KINDS = ("bfloat16", "float16", "float32")
_MATRICES = ("attn_q", "attn_output", "ffn_gate", "ffn_down", "ffn_gate_exps", "ffn_down_exps", "ffn_gate.0")
_NO_DEFAULT = object()


class Header:
    """The fields of one GGUF file, under its architecture's prefix.

    Attributes:
        kinds: The stored format of each tensor.
    """

    def __init__(self, fields: Mapping[str, Any], kinds: Mapping[str, str], *, source: object) -> None:
        self._fields, self.kinds, self._source = fields, kinds, source
        self._prefix = fields["general.architecture"]

    def field(self, name: str, default: Any = _NO_DEFAULT) -> Any:
        """Return the field `<architecture>.<name>`.

        Raises:
            CheckpointCorrupt: It is absent, and no default was given.
        """
        value = self._fields.get(f"{self._prefix}.{name}", default)
        if value is _NO_DEFAULT:
            raise CheckpointCorrupt(f"{self._source}: the header lacks {self._prefix}.{name}: convert the file again")
        return value

    def config(self, family: str, *, factors: tuple[float, ...] = (), **own: Any) -> ModelConfig:
        """Flatten the header.

        Args:
            family: Its name.
            factors: What the frequencies are divided by.
            own: Fields of `ModelConfig` that the family found itself.

        Raises:
            UnsupportedModel: A rope that we do not compute.
            CheckpointCorrupt: A field is missing.
        """
        eos = self._fields.get("tokenizer.ggml.eos_token_id")
        num_heads = self.field("attention.head_count")
        found: dict[str, Any] = {
            "hidden_size": self.field("embedding_length"),
            "num_blocks": self.field("block_count"),
            "num_heads": num_heads,
            "num_kv_heads": self.field("attention.head_count_kv", num_heads),
            "head_size": self.head_size,
            "intermediate_size": self.field("feed_forward_length"),
            "rms_eps": float(self.field("attention.layer_norm_rms_epsilon")),
            "rope": self._rope(factors),
            "context_length": self.field("context_length"),
            "vocab_size": self.field("vocab_size", 0),
            "tie_embeddings": "output.weight" not in self.kinds,
            "attention_bias": "blk.0.attn_q.bias" in self.kinds,
            "mlp_bias": "blk.0.ffn_gate.bias" in self.kinds,
            "stored_dtype": self._stored_dtype(),
            "bos_id": self._fields.get("tokenizer.ggml.bos_token_id"),
            "eos_ids": () if eos is None else (eos,),
            "pad_id": self._fields.get("tokenizer.ggml.padding_token_id"),
        }
        return ModelConfig(family=family, **found, **own)

    @property
    def head_size(self) -> int:
        """E: told, or the hidden size divided among the heads."""
        told = self.field("attention.key_length", 0)
        return int(told or self.field("embedding_length") // self.field("attention.head_count"))

    def _rope(self, factors: tuple[float, ...]) -> Rope:
        if self.field("rope.dimension_count", self.head_size) != self.head_size:
            raise UnsupportedModel(f"{self._source}: only part of a head is rotated; supported: whole heads")
        kind = self.field("rope.scaling.type", "none")
        if kind not in ("none", "linear"):
            text = f"{self._source}: rotary scaling {kind!r} in a GGUF file; supported: 'none', 'linear'"
            raise UnsupportedModel(text)
        return Rope(
            theta=float(self.field("rope.freq_base", 10000.0)),
            kind="default" if kind == "none" else "linear",
            parameters=() if kind == "none" else (("factor", float(self.field("rope.scaling.factor"))),),
            factors=factors,
        )

    def _stored_dtype(self) -> str:
        found = {self.kinds[name] for part in _MATRICES if (name := f"blk.0.{part}.weight") in self.kinds}
        return found.pop() if len(found) == 1 and found <= set(_PLAIN_KINDS) else "quantised"
