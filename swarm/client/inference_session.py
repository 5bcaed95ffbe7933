"""A session that outlives a call: what one `generate()` computed, the next one need not."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.client.model import SwarmForCausalLM

_current: ContextVar[InferenceSession | None] = ContextVar("swarm_inference_session", default=None)


class InferenceSession:
    """Keeps the cache across `generate()` calls; use as a context manager.

    Within the block, `model.generate(ids)` takes the whole conversation each time and computes
    only what the session does not hold yet: it rolls back to the longest common beginning.
    """

    def __init__(self, model: SwarmForCausalLM, max_length: int | None) -> None:
        self._model = model
        self.cache = model.new_cache(max_length=max_length)

    @property
    def position(self) -> int:
        """Tokens (padding included) that the session holds."""
        return self.cache.get_seq_length()

    def __enter__(self) -> InferenceSession:
        self._token = _current.set(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _current.reset(self._token)
        self.cache.reset()

    def belongs_to(self, model: object) -> bool:
        """Whether the session was made by `model`."""
        return self._model is model


def current_session() -> InferenceSession | None:
    """Return the session of the `with` block that we are in, if we are in one."""
    return _current.get()
