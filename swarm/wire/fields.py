"""Field types of messages and records: each checks type and range and returns the clean value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from swarm.errors import ProtocolError

Check = Callable[[object], Any]
"""Takes a decoded msgpack value, returns the field's value or raises `ProtocolError`."""


def integer(low: int, high: int) -> Check:
    """An int in [low, high]."""

    def check(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ProtocolError(f"{value!r:.40} is no integer in [{low}, {high}]")
        return value

    return check


def number(low: float, high: float) -> Check:
    """A finite float (or int) in [low, high]."""

    def check(value: object) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type,operator]
            raise ProtocolError(f"{value!r:.40} is no number in [{low}, {high}]")
        return float(value)  # type: ignore[arg-type]

    return check


def text(max_length: int) -> Check:
    """A str of at most `max_length` characters, all printable: it may end on a person's terminal."""

    def check(value: object) -> str:
        if type(value) is not str or len(value) > max_length or not value.isprintable():
            raise ProtocolError(f"{value!r:.40} is no printable text of at most {max_length} characters")
        return value

    return check


def blob(length: int) -> Check:
    """Exactly `length` bytes."""

    def check(value: object) -> bytes:
        if type(value) is not bytes or len(value) != length:
            raise ProtocolError(f"{value!r:.40} is no byte string of length {length}")
        return value

    return check


def blob_of(item_bytes: int, max_items: int) -> Check:
    """Up to `max_items` items of so many bytes each, one after another."""

    def check(value: object) -> bytes:
        if type(value) is not bytes or len(value) % item_bytes or len(value) > max_items * item_bytes:
            raise ProtocolError(f"{value!r:.40} is no byte string of at most {max_items} times {item_bytes} bytes")
        return value

    return check


def one_of(*choices: str) -> Check:
    """One of the given words."""

    def check(value: object) -> str:
        if type(value) is not str or value not in choices:
            raise ProtocolError(f"{value!r:.40} is none of {', '.join(choices)}")
        return value

    return check


def many(item: Check, max_items: int, *, min_items: int = 0) -> Check:
    """A list of `min_items` to `max_items` values, each passing `item`; becomes a tuple."""

    def check(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not min_items <= len(value) <= max_items:
            raise ProtocolError(f"{value!r:.40} is no list of {min_items} to {max_items} items")
        return tuple([item(entry) for entry in value])

    return check


def counts_of(kind: Callable[..., Any], *highest: int) -> Check:
    """A list of integers, each from 0 to its highest, as a `kind`; surplus ones of a newer version are ignored."""
    num_fields = len(highest)

    def check(value: object) -> object:
        if not isinstance(value, list | tuple) or len(value) < num_fields:
            raise ProtocolError(f"{value!r:.40} is no list of {num_fields} integers")
        for entry, high in zip(value, highest, strict=False):
            if type(entry) is not int or not 0 <= entry <= high:
                raise ProtocolError(f"{entry!r:.40} is no integer in [0, {high}]")
        return kind(*value[:num_fields])

    return check
