"""What a model is, flattened once: everything the blocks need, whatever file it came from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary position embedding, as the checkpoint states it.

    Attributes:
        theta: Base of the frequencies.
        kind: transformers' `rope_type`: "default", "linear", "llama3", "yarn".
        parameters: Further parameters of the kind, sorted pairs.
        factors: What GGUF files divide the frequencies by (`rope_freqs.weight`); empty if nothing.
    """

    theta: float = 10000.0
    kind: str = "default"
    parameters: tuple[tuple[str, Any], ...] = ()
    factors: tuple[float, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Return it as transformers' `rope_parameters`."""
        return {"rope_type": self.kind, "rope_theta": self.theta, **dict(self.parameters)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model's shape and constants.

    Attributes:
        family: Whose names and wiring it has, such as "llama"; "generic" is transformers' own layers.
        hidden_size: D.
        num_blocks: L, of the whole model.
        num_heads: H, query heads.
        num_kv_heads: K, key and value heads.
        head_size: E.
        intermediate_size: Width inside the feed-forward half.
        rms_eps: Added to the mean square in each norm.
        rope: See `Rope`.
        local_rope: Of the blocks with a window, where theirs differs (Gemma 3); None if it does not.
        windows: Per block, how many tokens back it sees, itself included; 0 sees all. Empty if every block sees all.
        activation: Of the gate: "silu" or "gelu_tanh".
        attention_scale: Factor on queries times keys; 0 means 1 / sqrt(E).
        attention_softcap: s -> cap * tanh(s / cap) on attention's scores; 0 is none.
        logits_softcap: The same on the head's output.
        embedding_scale: Factor on embeddings, rounded to their dtype; 0 is none.
        num_experts: Feed-forward halves per block to choose from; 0 if there is just the one.
        experts_per_token: How many of them a token goes through.
        context_length: Tokens the model was made for.
        vocab_size: V.
        tie_embeddings: Whether the head is the embedding.
        attention_bias: Whether q, k, v and o have a bias.
        mlp_bias: Whether gate, up and down have a bias.
        stored_dtype: Of the blocks' weights in the file: a torch dtype's name, or "quantised".
        bos_id: Begin-of-text token, if any.
        eos_ids: End-of-text tokens, perhaps none.
        pad_id: Padding token, if any.
        settings: The whole `config.json` as canonical JSON, of a model whose layers transformers runs; else empty.
    """

    family: str
    hidden_size: int
    num_blocks: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    intermediate_size: int
    rms_eps: float
    rope: Rope
    context_length: int
    vocab_size: int
    tie_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    stored_dtype: str
    bos_id: int | None
    eos_ids: tuple[int, ...]
    pad_id: int | None
    local_rope: Rope | None = None
    windows: tuple[int, ...] = ()
    activation: str = "silu"
    attention_scale: float = 0.0
    attention_softcap: float = 0.0
    logits_softcap: float = 0.0
    embedding_scale: float = 0.0
    num_experts: int = 0
    experts_per_token: int = 0
    settings: str = ""

    def __post_init__(self) -> None:
        if self.windows and (len(self.windows) != self.num_blocks or min(self.windows) < 0):
            raise ValueError(f"windows {self.windows[:4]}... of {len(self.windows)} blocks, {self.num_blocks} wanted")
        least = min(1, self.num_experts)
        if not least <= self.experts_per_token <= self.num_experts:
            raise ValueError(f"{self.experts_per_token} of {self.num_experts} experts for a token")

    def canonical(self) -> bytes:
        """Return bytes that are equal for equal models, whoever read them from whichever file."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    def is_local(self, index: int) -> bool:
        """Whether block `index` rotates by `local_rope`."""
        return self.local_rope is not None and bool(self.windows) and self.windows[index] > 0

    def frequencies(self, *, local: bool = False) -> tuple[torch.Tensor, float]:
        """Return a rope's frequencies, (E / 2,) float32, and the factor on cosine and sine.

        Scaled kinds are resolved by transformers' own functions, so that they mean what the checkpoint's
        authors tested; the unscaled one (RoFormer, arXiv:2104.09864) is one line and costs no import.

        Args:
            local: Of `local_rope` instead of `rope`, if the model has one.
        """
        import torch

        rope = self.local_rope if local and self.local_rope is not None else self.rope
        if rope.kind != "default":
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

            frequencies, scaling = ROPE_INIT_FUNCTIONS[rope.kind](self._rope_config(rope), torch.device("cpu"))
            return frequencies, float(scaling)
        steps = torch.arange(0, self.head_size, 2, dtype=torch.float32) / self.head_size
        frequencies = 1.0 / (rope.theta**steps)
        if rope.factors:
            frequencies = frequencies / torch.tensor(rope.factors)
        return frequencies, 1.0

    def ropes(self) -> list[tuple[torch.Tensor, float]]:
        """Return `frequencies` of the rope of most blocks, and of `local_rope` if there is one."""
        return [self.frequencies()] + ([] if self.local_rope is None else [self.frequencies(local=True)])

    def _rope_config(self, rope: Rope) -> PretrainedConfig:
        """What transformers' rope functions read, which is the same for every family."""
        from transformers import LlamaConfig

        return LlamaConfig(
            hidden_size=self.hidden_size,
            num_attention_heads=self.num_heads,
            head_dim=self.head_size,
            rope_parameters=rope.settings(),
            max_position_embeddings=self.context_length,
        )

    def to_transformers(self) -> PretrainedConfig:
        """Return the same as a transformers configuration (GGUF's `rope.factors` have no place in it)."""
        from transformers import AutoConfig

        if self.settings:
            settings = json.loads(self.settings)
            return AutoConfig.for_model(settings.pop("model_type"), **settings)
        return AutoConfig.for_model(self.family, **self._shape_settings(), **self._family_settings())

    def _shape_settings(self) -> dict[str, Any]:
        """What all families call by the same names."""
        return {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_blocks,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_size,
            "intermediate_size": self.intermediate_size,
            "rms_norm_eps": self.rms_eps,
            "max_position_embeddings": self.context_length,
            "vocab_size": self.vocab_size,
            "tie_word_embeddings": self.tie_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "bos_token_id": self.bos_id,
            "eos_token_id": self.eos_ids[0] if len(self.eos_ids) == 1 else list(self.eos_ids) or None,
            "pad_token_id": self.pad_id,
        }

    def _family_settings(self) -> dict[str, Any]:
        """What some families have; the others' configurations do not read it."""
        silu = "silu" if self.activation == "silu" else "gelu_pytorch_tanh"
        kinds = ["sliding_attention" if window else "full_attention" for window in self.windows]
        rope = self.rope.settings()
        if self.local_rope is not None:
            rope = {"full_attention": rope, "sliding_attention": self.local_rope.settings()}
        found: dict[str, Any] = {"hidden_act": silu, "hidden_activation": silu, "rope_parameters": rope}
        found |= {"sliding_window": max(self.windows, default=0) or None, "use_sliding_window": any(self.windows)}
        found |= {"layer_types": kinds} if 0 in self.windows else {}
        if self.attention_scale:
            found["query_pre_attn_scalar"] = round(self.attention_scale**-2)
        found["attn_logit_softcapping"] = self.attention_softcap or None
        found["final_logit_softcapping"] = self.logits_softcap or None
        if self.num_experts:
            found |= {"num_local_experts": self.num_experts, "num_experts_per_tok": self.experts_per_token}
        return found
