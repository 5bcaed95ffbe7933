"""Run big language models together: each peer serves some of the blocks, and a client's tokens pass through all.

The two public names come from `swarm.client`, on first use: importing `swarm` loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.client import AutoModelForCausalLM, AutoTokenizer

__all__ = ["AutoModelForCausalLM", "AutoTokenizer"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module("swarm.client"), name)
    raise AttributeError(f"module 'swarm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
