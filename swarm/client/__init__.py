"""The client: a model whose blocks are somewhere else, with transformers' own `generate`.

A token's way: `model` embeds it, `cache` says which sequences grow by it, `session` sends it
along the route and gets the last block's output back, `model` turns that into logits. Everything
that waits for the network runs on one background loop (`bridge`), so plain synchronous calls work
from a script, a notebook cell and several threads.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.client.auto import AutoModelForCausalLM, AutoTokenizer, served_models
    from swarm.client.config import ClientConfig, Timeouts
    from swarm.client.explain import Explanation
    from swarm.client.inference_session import InferenceSession
    from swarm.client.model import SwarmForCausalLM
    from swarm.client.remote_blocks import RemoteBlocks
    from swarm.client.streaming import TokenStream

_HOMES = {
    "AutoModelForCausalLM": "auto",
    "AutoTokenizer": "auto",
    "ClientConfig": "config",
    "Explanation": "explain",
    "InferenceSession": "inference_session",
    "RemoteBlocks": "remote_blocks",
    "SwarmForCausalLM": "model",
    "Timeouts": "config",
    "TokenStream": "streaming",
    "served_models": "auto",
}

__all__ = [
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "ClientConfig",
    "Explanation",
    "InferenceSession",
    "RemoteBlocks",
    "SwarmForCausalLM",
    "Timeouts",
    "TokenStream",
    "served_models",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
