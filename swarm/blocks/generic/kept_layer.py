"""Keys and values as transformers' layers ask for them."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin


class KeptLayer(CacheLayerMixin):
    """What transformers asks of one layer's keys and values, all tokens always in reach."""

    is_sliding = False

    def __init__(self, held: int = 0) -> None:
        super().__init__()
        self.held = held
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the memory is there."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Return what came: nothing is kept of layers that do not run."""
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Return how many tokens are held."""
        return self.held

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys a mask is for, and the position of the first."""
        return self.held + query_length, 0

    def get_max_length(self) -> int:
        """Return that there is no limit here: the model's context is checked before."""
        return -1
