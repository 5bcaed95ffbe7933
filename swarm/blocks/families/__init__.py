"""Model families: the names that checkpoints use, and the layer that they make."""

from __future__ import annotations

from swarm.blocks.families.family import Family
from swarm.blocks.families.llama import LLAMA
from swarm.errors import UnsupportedModel

__all__ = ["Family", "find_family"]

_FAMILIES = {family.name: family for family in (LLAMA,)}


def find_family(name: object, *, source: object) -> Family:
    """Return the family `name`; `source` is the file that names it.

    Raises:
        UnsupportedModel: We have none of this name; the message lists those we have.
    """
    if isinstance(name, str) and name in _FAMILIES:
        return _FAMILIES[name]
    known = ", ".join(sorted(_FAMILIES))
    raise UnsupportedModel(f"{source}: architecture {name!r} is not supported; supported: {known}")
