"""A span of transformers' own layers, one sequence after another: right for any model, and slow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from swarm.blocks.config import ModelConfig
from swarm.blocks.generic.kept_layer import KeptLayer
from swarm.blocks.generic.skeleton import Skeleton
from swarm.blocks.paged.attention import Row
from swarm.blocks.paged.kv_cache import KVCache
from swarm.blocks.weights import Weight


class GenericSpan:
    """Consecutive layers of a model that we have no family for."""

    def __init__(self, config: ModelConfig, start: int, *, dtype: torch.dtype, source: object) -> None:
        """Begin an empty span whose first block is `start`; `source` names the checkpoint.

        Raises:
            UnsupportedModel: transformers' layers cannot be run so; see `Skeleton`.
        """
        self._skeleton = Skeleton(config.settings, dtype, source=source)
        self._skeleton.fill_ends(None)
        self._start, self._weight_bytes = start, 0
        self._width = self._skeleton.model.get_input_embeddings().embedding_dim

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        return self._weight_bytes

    def add(self, tensors: dict[str, Weight], index: int) -> None:
        """Fill layer `index` of the model, by the files' names; takes the tensors out of the dictionary."""
        layer = self._skeleton.layers[index]
        plain = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
        self._skeleton.fill_layer(index, plain)
        tensors.clear()
        self._weight_bytes += sum(parameter.nbytes for parameter in layer.parameters())

    def forward(
        self, hidden: Tensor, rows: Sequence[Row], cache: KVCache, first: int, last: int, *, goes_on: bool = False
    ) -> Tensor:
        """Run a ragged batch (T, D) through the blocks [first, last) of those added; (T, D) in the span's dtype."""
        hidden, parts, start = hidden.to(self._skeleton.dtype), [], 0
        for row in rows:
            parts.append(self._run(hidden[start : start + row.length], row, cache, first, last))
            start += row.length
        return torch.cat(parts)

    def _run(self, hidden: Tensor, row: Row, cache: KVCache, first: int, last: int) -> Tensor:
        skeleton, course = self._skeleton, self._skeleton.course
        slots = torch.tensor(row.sequence.slots(0, row.position + row.length))
        layers: list[KeptLayer] = [KeptLayer(row.position) for _ in skeleton.layers]
        for index in range(first, last):
            layers[self._start + index] = PagedLayer(cache.keys[index], cache.values[index], slots, row.position)
        course.first, course.last = self._start + first, self._start + last
        course.entering = hidden.unsqueeze(0)
        skeleton.run(
            inputs_embeds=torch.zeros(1, row.length, self._width, dtype=skeleton.dtype),
            position_ids=torch.arange(row.position, row.position + row.length).unsqueeze(0),
            past_key_values=Cache(layers=layers),
            use_cache=True,
        )
        result, course.result, course.entering = course.result, None, None
        assert result is not None
        return result[0]


class PagedLayer(KeptLayer):
    """One sequence's keys and values of one layer, in one block's pools (slots, K, E)."""

    def __init__(self, keys: Tensor, values: Tensor, slots: Tensor, position: int) -> None:
        super().__init__(position)
        self._pools, self._slots = (keys, values), slots

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens (1, K, T, E) into their slots; return all tokens' keys and values (1, K, S, E)."""
        new = self._slots[self.held :]
        self.held = len(self._slots)
        found = []
        for pool, states in zip(self._pools, (key_states, value_states), strict=True):
            pool.index_copy_(0, new, states[0].transpose(0, 1).to(pool.dtype))
            found.append(pool.index_select(0, self._slots).transpose(0, 1).unsqueeze(0).to(states.dtype))
        return found[0], found[1]
