"""What a model is, flattened once: everything the blocks need, whatever file it came from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model's shape and constants.

    Attributes:
        family: Which layer it is made of, "llama".
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

    def canonical(self) -> bytes:
        """Return bytes that are equal for equal models, whoever read them from whichever file."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    def frequencies(self) -> tuple[torch.Tensor, float]:
        """Return the rotary frequencies, (E / 2,) float32, and the factor on cosine and sine.

        Scaled kinds are resolved by transformers' own functions, so that they mean what the checkpoint's
        authors tested; the unscaled one (RoFormer, arXiv:2104.09864) is one line and costs no import.
        """
        import torch

        if self.rope.kind != "default":
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

            frequencies, scaling = ROPE_INIT_FUNCTIONS[self.rope.kind](self.to_transformers(), torch.device("cpu"))
            return frequencies, float(scaling)
        steps = torch.arange(0, self.head_size, 2, dtype=torch.float32) / self.head_size
        frequencies = 1.0 / (self.rope.theta**steps)
        if self.rope.factors:
            frequencies = frequencies / torch.tensor(self.rope.factors)
        return frequencies, 1.0

    def to_transformers(self) -> LlamaConfig:
        """Return the same as a transformers configuration (GGUF's `rope.factors` have no place in it)."""
        from transformers import LlamaConfig

        rope = {"rope_type": self.rope.kind, "rope_theta": self.rope.theta, **dict(self.rope.parameters)}
        return LlamaConfig(
            architectures=["LlamaForCausalLM"],
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_blocks,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            head_dim=self.head_size,
            intermediate_size=self.intermediate_size,
            rms_norm_eps=self.rms_eps,
            rope_parameters=rope,
            max_position_embeddings=self.context_length,
            vocab_size=self.vocab_size,
            tie_word_embeddings=self.tie_embeddings,
            attention_bias=self.attention_bias,
            mlp_bias=self.mlp_bias,
            bos_token_id=self.bos_id,
            eos_token_id=self.eos_ids[0] if len(self.eos_ids) == 1 else list(self.eos_ids) or None,
            pad_token_id=self.pad_id,
        )
