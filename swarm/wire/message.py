"""What a message is: declared fields, each with its check."""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar

from swarm.wire.fields import Check


def declared(check: Check, default: object = ...) -> Any:
    """Return a message's field: what a peer sends for it passes `check`."""
    if default is ...:
        return field(metadata={"check": check})
    return field(default=default, metadata={"check": check})


class Message:
    """Base of all messages; `wire_number` stands first in the header, `carries_body` allows a body."""

    __slots__ = ()
    wire_number: ClassVar[int]
    carries_body: ClassVar[bool] = False
