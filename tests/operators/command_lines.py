"""Command lines as people read them, out of Markdown and unit files, and given to the commands' own parsers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from swarm.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent.parent
BOOTSTRAP = ROOT / "bootstrap"
MARKDOWN = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(BOOTSTRAP.glob("*.md")))

_STARTS = re.compile(
    r"^(?:\$ |# )?(?:[A-Z_]+=\S+ )*(?:ExecStart=)?(?:\S*/)?(?:python3? -m swarm\.|swarm |python3? -m swarm\b)"
)
_CONTAINER = re.compile(r"^(?:podman|docker) run .* swarm ")
_OUTPUT = re.compile(r"^swarm \d")
"""What a command prints of itself is no command."""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A command of ours, and where it stands."""

    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where}: {' '.join(self.words)}"


def in_markdown(file: Path) -> Iterator[CommandLine]:
    """Yield the command lines of the code blocks in `file`, those continued by a backslash in one piece."""
    name = file.relative_to(ROOT).as_posix()
    for number, text in _joined(_code_lines(file.read_text(encoding="utf-8"))):
        if _CONTAINER.match(text):
            words = shlex.split(text, comments=True)
            yield CommandLine(f"{name}:{number}", command_words(words[words.index("swarm") :]))
        elif _STARTS.match(text) and not _OUTPUT.match(text):
            words = shlex.split(text.partition("ExecStart=")[2] or text.removeprefix("$ "), comments=True)
            words = words[
                : min((words.index(end) for end in ("|", ">", ">>", "&&", "&") if end in words), default=None)
            ]
            yield CommandLine(f"{name}:{number}", command_words(words))


def command_words(words: Sequence[str]) -> tuple[str, ...]:
    """Return name and arguments of a command, however it is started."""
    words = [word for word in words if not word.startswith("$")]
    while "=" in words[0] and not words[0].startswith("-"):
        del words[0]
    if words[0].rpartition("/")[2].startswith("python"):
        assert words[1] == "-m", words
        return (words[2].removeprefix("swarm."), *words[3:])
    return tuple(words[1:])


def parse(words: Sequence[str]) -> object:
    """Give the arguments to the command's own parser; return the config, or the exit status of --help.

    Raises:
        AssertionError: No such command, or its parser refuses them.
    """
    found = [command for command in COMMANDS if command.name == words[0]]
    assert found, f"no command {words[0]!r}"
    module: Any = import_module(found[0].target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "parse_flags", _stopping(module.parse_flags))
        try:
            module.main(list(words[1:]))
        except _Parsed as parsed:
            return parsed.args[0]
        except SystemExit as end:
            if end.code != 0:
                raise AssertionError(f"its parser refuses {words[1:]}") from end
            return end.code
    raise AssertionError(f"{words[0]} does not read its flags by parse_flags")


class _Parsed(BaseException):
    """The flags were read; nothing shall be run. Nobody who catches exceptions catches it."""


def _stopping(parse_flags: Any) -> Any:
    def read(*args: Any, **kwargs: Any) -> Any:
        raise _Parsed(parse_flags(*args, **kwargs))

    return read


def _code_lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line of code, fenced or indented by four; an empty text where a block ends."""
    is_fenced, before = False, ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_fenced = not is_fenced
            yield number, ""
        elif is_fenced or (line.startswith("    ") and (not before.strip() or before.startswith("    "))):
            yield number, line.strip()
        before = line


def _joined(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    begun: tuple[int, str] | None = None
    for number, text in lines:
        if begun is not None:
            number, text = begun[0], f"{begun[1]} {text}"
        begun = (number, text.removesuffix("\\").rstrip()) if text.endswith("\\") else None
        if begun is None:
            yield number, text
