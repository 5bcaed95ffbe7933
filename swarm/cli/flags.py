"""From a config dataclass to an argument parser and back.

Flags, help and defaults have one home, the dataclass: a default is never copied into argparse, an absent flag
is simply not passed to the constructor.
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from swarm.errors import LocalError
from swarm.flag import KEY, Flag

Config = TypeVar("Config")

_PLAIN: tuple[type, ...] = (str, int, float)


def parse_flags(
    config_type: type[Config],
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    description: str | None = None,
) -> Config:
    """Read `argv` (None is the process's own) into a new `config_type`.

    A bad flag ends the process as argparse does: usage and one line on stderr, exit status 2. So does a
    `LocalError` that the dataclass itself raises over a value. `--help` prints and exits with 0.

    Raises:
        TypeError: The dataclass has a field whose type cannot be a flag; a fault of the program.
    """
    parser = build_parser(config_type, prog=prog, description=description)
    given = vars(parser.parse_args(argv))
    # An absent positional stands as None or an empty list: the dataclass's own default counts instead.
    values = {name: _value(value) for name, value in given.items() if value is not None and value != []}
    try:
        return config_type(**values)
    except LocalError as error:
        parser.error(str(error))


def build_parser(
    config_type: type, *, prog: str | None = None, description: str | None = None
) -> argparse.ArgumentParser:
    """Return the parser with one argument per field that carries a `Flag`; others keep their defaults.

    Without `description`, the first line of the dataclass's docstring serves.

    Raises:
        TypeError: A field's type is none of str, int, float, bool, Literal, tuple of one of these, or
            optional, and its flag brings no `parse`.
    """
    text = description if description is not None else (config_type.__doc__ or "").strip().partition("\n")[0]
    parser = argparse.ArgumentParser(
        prog=prog, description=text, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    hints = get_type_hints(config_type)
    for field in fields(config_type):
        if isinstance(spec := field.metadata.get(KEY), Flag):
            _add(parser, field, spec, hints[field.name])
    return parser


def _add(parser: argparse.ArgumentParser, field: Field[Any], spec: Flag, hint: Any) -> None:
    kind, many = _kind(hint)
    required = field.default is MISSING and field.default_factory is MISSING
    options: dict[str, Any] = {"help": (spec.text + _default_text(field)).replace("%", "%%")}  # argparse expands %
    option = "--" + field.name.replace("_", "-")
    if kind is bool and spec.parse is None:
        if field.default is True:
            parser.add_argument(option.replace("--", "--no-", 1), dest=field.name, action="store_false", **options)
        else:
            parser.add_argument(option, action="store_true", **options)
        return
    options |= _reading(field.name, kind, spec)
    nargs = spec.nargs or ("*" if many else None)
    if spec.positional:
        options["metavar"] = spec.metavar or field.name.upper()
        nargs = nargs or (None if required else "?")
        parser.add_argument(field.name, nargs=nargs, default=None, **options)
    else:
        action = "extend" if many else "store"
        if spec.metavar or "choices" not in options:
            options["metavar"] = spec.metavar or field.name.upper()
        parser.add_argument(option, action=action, nargs=nargs, required=required, **options)


def _reading(name: str, kind: Any, spec: Flag) -> dict[str, Any]:
    """How argparse shall turn one word into a value."""
    if spec.parse is not None:
        return {"type": _telling(spec.parse)}
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return {"type": type(choices[0]), "choices": choices}
    if kind in _PLAIN:
        return {"type": kind}
    raise TypeError(f"field {name!r} of type {kind} cannot be a flag; give its flag a parse function")


def _telling(parse: Callable[[str], object]) -> Callable[[str], object]:
    # argparse shows the text of its own error only; a ValueError's it would replace by "invalid value".
    def parse_or_tell(text: str) -> object:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse_or_tell


def _kind(hint: Any) -> tuple[Any, bool]:
    """The type of one word, and whether there may be many of them."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = [part for part in get_args(hint) if part is not type(None)]
        return _kind(inner[0]) if len(inner) == 1 else (hint, False)
    if get_origin(hint) is tuple and len(parts := get_args(hint)) == 2 and parts[1] is Ellipsis:
        return parts[0], True
    return hint, False


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _default_text(field: Field[Any]) -> str:
    value = field.default
    is_silent = value is MISSING or value is None or value == () or value == "" or isinstance(value, bool)
    return "" if is_silent else f" (default: {value})"
