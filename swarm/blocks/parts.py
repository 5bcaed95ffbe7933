"""What one decoder block is made of: the seam between families, which name tensors, and what runs them.

A family turns its checkpoint's tensors into `BlockParts`; the plain torch block
(`swarm.blocks.decoder`) and the native kernels (`swarm.blocks.native`) both run from them, so a
family is wired once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from swarm.blocks.weights import Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """A linear layer's numbers: (O, I), and (O,) float32 or None."""

    weight: Weight
    bias: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """A gated feed-forward half: down(activation(gate(x)) * up(x))."""

    gate: Affine
    up: Affine
    down: Affine


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockParts:
    """One block: x += after(attention(norm(x))); x += after_feed(feed(feed_norm(x))).

    Norms are RMS norms in float32; a family whose checkpoints store "weight - 1" (Gemma) adds the one here.

    Attributes:
        norm: (D,), before attention.
        feed_norm: (D,), before the feed-forward half.
        after_norm: (D,), of attention's output before it is added; None if there is none (all but Gemma).
        after_feed_norm: As `after_norm`, of the feed-forward half.
        query_norm: (E,), of each query head before rotation; None if there is none.
        key_norm: As `query_norm`, of each key head.
        qkv: Queries, keys and values under each other: ((H + 2 K) E, D).
        out: (D, H E).
        feeds: One, or the experts.
        router: (number of experts, D) float32; None without experts.
    """

    norm: Tensor
    feed_norm: Tensor
    after_norm: Tensor | None = None
    after_feed_norm: Tensor | None = None
    query_norm: Tensor | None = None
    key_norm: Tensor | None = None
    qkv: Affine
    out: Affine
    feeds: tuple[Feed, ...]
    router: Tensor | None = None

    def with_norms_on(self, device: str) -> BlockParts:
        """Return the same with all that is no linear layer moved to a device; layers go there when they are packed."""
        names = ("norm", "feed_norm", "after_norm", "after_feed_norm", "query_norm", "key_norm", "router")
        found = {name: getattr(self, name) for name in names}
        return replace(self, **{name: tensor.to(device) for name, tensor in found.items() if tensor is not None})
