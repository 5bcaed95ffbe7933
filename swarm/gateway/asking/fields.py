"""A JSON object, read field by field: what is left at the end is unknown, and refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TypeGuard

from swarm.gateway.faults import Refused

MAX_SHOWN = 60
"""Characters of a wrong value that its refusal repeats."""


def read_object(body: bytes) -> dict[str, object]:
    """Return the JSON object that a body is.

    Raises:
        Refused: It is none, or nested too deeply, or has numbers that JSON does not know.
    """
    try:
        value: object = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or an integer of thousands of digits
        raise Refused(f"the body is not JSON: {_cut(str(error))}", fault="invalid_json") from error
    if not isinstance(value, dict):
        raise Refused(f"the body is {shown(value)}: an object is needed", fault="invalid_json")
    return value


class Fields:
    """The fields of an object; null stands for one that is not there, as clients send it."""

    def __init__(self, values: Mapping[str, object], within: str = "") -> None:
        self._rest = {name: value for name, value in values.items() if value is not None}
        self._within = within

    def path(self, name: str) -> str:
        """Return what the API calls a field."""
        return f"{self._within}.{name}" if self._within else name

    def take(self, name: str) -> object:
        """Return a field as it is, None without it."""
        return self._rest.pop(name, None)

    def integer(self, name: str, low: int, high: int) -> int | None:
        """Return an integer of [low, high]."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, value, f"an integer from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """Return a number of [low, high]."""
        value = self.take(name)
        if value is None:
            return None
        if not is_number(value) or not low <= value <= high:
            raise self.wrong(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str) -> bool:
        """Return a truth, false without it."""
        value = self.take(name)
        if not isinstance(value, bool | None):
            raise self.wrong(name, value, "true or false")
        return bool(value)

    def text(self, name: str, max_length: int | None = None) -> str | None:
        """Return a string."""
        value = self.take(name)
        return None if value is None else self.as_text(name, value, max_length)

    def as_text(self, name: str, value: object, max_length: int | None = None) -> str:
        """Return a value of a field, which must be a string of real characters."""
        if not isinstance(value, str):
            raise self.wrong(name, value, "a string")
        if max_length is not None and len(value) > max_length:
            raise self.wrong(name, value, f"at most {max_length} characters")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise self.wrong(name, "halves of surrogate pairs", "a string of Unicode characters")
        return value

    def within(self, name: str) -> Fields | None:
        """Return the fields of an object."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, value, "an object")
        return Fields(value, self.path(name))

    def only(self, name: str, allowed: Iterable[object], why: str) -> None:
        """Pass over a field that asks for nothing special, and refuse any other value of it."""
        value = self.take(name)
        if value is not None and not any(value == each and type(value) is type(each) for each in allowed):
            raise Refused(
                f"{self.path(name)} of {shown(value)} is not supported: {why}",
                param=self.path(name),
                fault="unsupported_parameter",
            )

    def end(self) -> None:
        """Refuse what was not read."""
        for name in self._rest:
            path = self.path(_cut(name))
            raise Refused(f"{path} is no parameter that is known here", param=path, fault="unknown_parameter")

    def wrong(self, name: str, value: object, wanted: str) -> Refused:
        """Return the refusal of a field's value."""
        path = self.path(name)
        return Refused(f"{path} is {shown(value)}: give {wanted}", param=path, fault="invalid_value")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number, and no truth."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def shown(value: object) -> str:
    """Return a value as a refusal shows it: whoever sent a long one knows it."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    try:
        return _cut(json.dumps(value))
    except ValueError:  # an integer of thousands of digits
        return "a number"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")
