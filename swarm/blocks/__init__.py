"""Transformer blocks on one machine: checkpoints, weights, attention, KV pages.

This room knows no peers. Its names load lazily, so that `import swarm.blocks` costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.blocks.config import ModelConfig
    from swarm.blocks.ends import ModelEnds
    from swarm.blocks.files.checkpoint import Checkpoint
    from swarm.blocks.files.opening import open_checkpoint
    from swarm.blocks.numerics import resolve_dtype
    from swarm.blocks.paged.kv_cache import KVCache
    from swarm.blocks.paged.pages import PAGE_SLOTS, PageAllocator, PageTable
    from swarm.blocks.span import BlockStack, Row

_HOMES = {
    "BlockStack": "span",
    "Checkpoint": "files.checkpoint",
    "KVCache": "paged.kv_cache",
    "ModelConfig": "config",
    "ModelEnds": "ends",
    "PAGE_SLOTS": "paged.pages",
    "PageAllocator": "paged.pages",
    "PageTable": "paged.pages",
    "Row": "span",
    "open_checkpoint": "files.opening",
    "resolve_dtype": "numerics",
}

__all__ = [
    "PAGE_SLOTS",
    "BlockStack",
    "Checkpoint",
    "KVCache",
    "ModelConfig",
    "ModelEnds",
    "PageAllocator",
    "PageTable",
    "Row",
    "open_checkpoint",
    "resolve_dtype",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
