"""The plain torch block: everything that `BlockParts` and `ModelConfig` can say, in the order in which it happens.

It is the specification of the native kernels, and what runs where they do not. Norms are computed in float32, linear
layers in the block's dtype by whatever `make_linear` packs them for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from swarm.blocks.config import ModelConfig
from swarm.blocks.linear import Linear, LinearFactory
from swarm.blocks.paged.attention import Batch, attend
from swarm.blocks.paged.kv_cache import KVCache
from swarm.blocks.parts import Affine, BlockParts, Feed


class DecoderBlock:
    """One block: x += after(attention(norm(x))); x += after_feed(feed(feed_norm(x)))."""

    def __init__(
        self, parts: BlockParts, config: ModelConfig, make_linear: LinearFactory, dtype: torch.dtype, index: int
    ) -> None:
        """Pack the parts of block `index` of the model; the caller may drop them afterwards."""

        def linear(affine: Affine) -> Linear:
            return make_linear(affine.weight, None if affine.bias is None else affine.bias.to(dtype))

        def norm(weight: Tensor | None) -> Norm | None:
            return None if weight is None else Norm(weight, config.rms_eps, dtype)

        self._config = config
        self._window = config.windows[index] if config.windows else 0
        self._is_local = config.is_local(index)
        self._norm = Norm(parts.norm, config.rms_eps, dtype)
        self._feed_norm = Norm(parts.feed_norm, config.rms_eps, dtype)
        self._after_norm, self._after_feed_norm = norm(parts.after_norm), norm(parts.after_feed_norm)
        self._query_norm, self._key_norm = norm(parts.query_norm), norm(parts.key_norm)
        self._qkv, self._out = linear(parts.qkv), linear(parts.out)
        feeds = [GatedFeed(feed, linear, config.activation) for feed in parts.feeds]
        self._feed: GatedFeed | Experts
        if parts.router is None:
            (self._feed,) = feeds
        else:
            self._feed = Experts(feeds, parts.router.to(torch.float32), config.experts_per_token)

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        norms = (self._norm, self._feed_norm, self._after_norm, self._after_feed_norm, self._query_norm, self._key_norm)
        linears = self._qkv.weight_bytes + self._out.weight_bytes + self._feed.weight_bytes
        return linears + sum(norm.weight_bytes for norm in norms if norm is not None)

    def forward(self, hidden: Tensor, batch: Batch, cache: KVCache, index: int) -> Tensor:
        """Run the block: (T, D) to (T, D); writes keys and values into the cache's block `index`."""
        attended = self._attend(self._norm(hidden), batch, cache, index)
        if self._after_norm is None:
            hidden = self._out(attended, add=hidden)
        else:
            hidden = hidden + self._after_norm(self._out(attended))
        if self._after_feed_norm is None:
            return self._feed(self._feed_norm(hidden), add=hidden)
        return hidden + self._after_feed_norm(self._feed(self._feed_norm(hidden)))

    def _attend(self, hidden: Tensor, batch: Batch, cache: KVCache, index: int) -> Tensor:
        """Attention's heads side by side, (T, H * E), before the output projection."""
        config = self._config
        heads, kv = config.num_heads, config.num_kv_heads
        qkv = self._qkv(hidden).view(-1, heads + 2 * kv, config.head_size)  # (T, H + 2K, E)
        rotating = qkv[:, : heads + kv]  # (T, H + K, E)
        if self._query_norm is not None and self._key_norm is not None:
            rotating = torch.cat((self._query_norm(rotating[:, :heads]), self._key_norm(rotating[:, heads:])), dim=1)
        rotated = batch.rotation(local=self._is_local).apply(rotating)
        keys, values = cache.keys[index], cache.values[index]
        batch.store(keys, rotated[:, heads:])
        batch.store(values, qkv[:, heads + kv :])
        scale = config.attention_scale or None
        return attend(
            rotated[:, :heads], keys, values, batch, window=self._window, scale=scale, softcap=config.attention_softcap
        )


class Norm:
    """RMS norm (arXiv:1910.07467), computed in float32.

    A weight that the dtype cannot hold exactly (Gemma's, which are stored less one) stays in float32.
    """

    def __init__(self, weight: Tensor, eps: float, dtype: torch.dtype) -> None:
        rounded = weight.to(dtype)
        is_exact = torch.equal(rounded.to(torch.float32), weight.to(torch.float32))
        self._weight = rounded if is_exact else weight.to(torch.float32)
        self._eps = eps

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weight takes in memory."""
        return self._weight.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the last dimension: the dtype of `x` in and out."""
        weight = self._weight
        if weight.dtype == x.dtype:
            return F.rms_norm(x, weight.shape, weight, self._eps)
        return F.rms_norm(x.to(torch.float32), weight.shape, weight, self._eps).to(x.dtype)


class GatedFeed:
    """The feed-forward half: down(activation(gate(x)) * up(x)) (arXiv:2002.05202)."""

    def __init__(self, feed: Feed, linear: Callable[[Affine], Linear], activation: str) -> None:
        self._gate, self._up, self._down = linear(feed.gate), linear(feed.up), linear(feed.down)
        self._is_silu = activation == "silu"

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        return self._gate.weight_bytes + self._up.weight_bytes + self._down.weight_bytes

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Run it (+ add): (T, D) to (T, D)."""
        gate = self._gate(x)
        gate = F.silu(gate, inplace=True) if self._is_silu else F.gelu(gate, approximate="tanh")
        return self._down(gate.mul_(self._up(x)), add=add)


class Experts:
    """Several feed-forward halves, of which each token goes through the few its router prefers (arXiv:2401.04088).

    The router decides in float32; the weights of the chosen are its probabilities, made to sum to one.
    """

    def __init__(self, feeds: list[GatedFeed], router: Tensor, chosen: int) -> None:
        self._feeds, self._router, self._chosen = feeds, router, chosen

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        return sum(feed.weight_bytes for feed in self._feeds) + self._router.nbytes

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Run it (+ add): (T, D) to (T, D)."""
        shares, choices = F.linear(x.to(torch.float32), self._router).softmax(-1).topk(self._chosen)  # (T, chosen)
        shares = (shares / shares.sum(-1, keepdim=True)).to(x.dtype)
        out = torch.zeros_like(x)
        for expert in sorted(set(choices.flatten().tolist())):
            tokens, places = (choices == expert).nonzero(as_tuple=True)
            out.index_add_(0, tokens, self._feeds[expert](x[tokens]) * shares[tokens, places].unsqueeze(-1))
        return out if add is None else out.add_(add)
