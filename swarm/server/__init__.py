"""A server: holds a span of blocks, takes sessions, passes activations along their routes.

A step's way: `handler` takes it from a channel, `engine` runs it on the compute thread, `links`
sends the output to the next hop, or back to the client that opened the session.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.server.config import ServerConfig
    from swarm.server.server import Server

_HOMES = {"Server": "server", "ServerConfig": "config"}

__all__ = ["Server", "ServerConfig"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
