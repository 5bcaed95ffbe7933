"""Native kernels: linear layers and whole spans in C++, for CPUs; optional.

Where they were not built or cannot run, torch's own operators serve, and `why_not` says why.
Names load lazily, so that the door costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swarm.blocks.native.binding import kernel_name, why_not
    from swarm.blocks.native.linear import NativeLinear, PackedWeight
    from swarm.blocks.native.span import NativeSpan

_HOMES = {
    "NativeLinear": "linear",
    "NativeSpan": "span",
    "PackedWeight": "linear",
    "kernel_name": "binding",
    "why_not": "binding",
}

__all__ = ["NativeLinear", "NativeSpan", "PackedWeight", "kernel_name", "why_not"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
