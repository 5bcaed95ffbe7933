"""Streams: one text each, token by token, any number of them at once in one process.

A stream's way: `options` turns what the user asked for into a `Choice`; `running` opens a session for it on the
bridge's loop; `decoder`, one compute thread for all streams, takes the results that have arrived together, applies
the head once, lets each `Choice` choose, sends the next steps, and hands the tokens to the loops that wait for them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.client.streaming.decoder import Decoder
    from swarm.client.streaming.options import read_options
    from swarm.client.streaming.token_stream import TokenStream

_HOMES = {"Decoder": "decoder", "TokenStream": "token_stream", "read_options": "options"}

__all__ = ["Decoder", "TokenStream", "read_options"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
