"""What a line that begins with a slash asks for."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.chat.config import HIGHEST, LOWEST
from swarm.errors import UsageError

HELP = (
    ("/route", "which servers the answers come from, and where their time goes"),
    ("/stats", "this conversation in numbers"),
    ("/retry", "answer the last question again"),
    ("/reset", "forget what was said"),
    ("/system TEXT", "what the model is told before the conversation; alone it shows that, - removes it"),
    ("/set NAME VALUE", f"one of {', '.join(LOWEST)}; the value auto is the model's own; alone it shows them"),
    ("/log", "what the program noted: lost servers, and who took over"),
    ("/help", "this"),
    ("/quit", "leave, as Ctrl-D does; Ctrl-C stops an answer"),
)

_NAMES = tuple(line.split()[0] for line, _ in HELP)


@dataclass(frozen=True, slots=True)
class Command:
    """A command and what follows it."""

    name: str
    rest: str = ""


def read_command(line: str) -> Command | None:
    """Return the command of a line, None if it is something to say; two slashes begin a line that says one.

    Raises:
        UsageError: There is no such command.
    """
    if not line.startswith("/") or line.startswith("//"):
        return None
    name, _, rest = line.partition(" ")
    if name == "/exit":
        name = "/quit"
    if name not in _NAMES:
        raise UsageError(f"no command {name}; there are {', '.join(_NAMES)}; to say it, begin with //")
    return Command(name, rest.strip())


def help_text() -> str:
    """Return a line for each command."""
    return "\n".join(f"  {line:<16} {text}" for line, text in HELP)


def read_setting(rest: str) -> tuple[str, int | float | None]:
    """Return the name and value in `/set NAME VALUE`; the value auto is None.

    Raises:
        UsageError: No such name, no such value, or out of its range.
    """
    name, _, text = rest.partition(" ")
    if name not in LOWEST or not text.strip():
        raise UsageError(f"/set NAME VALUE; names: {', '.join(LOWEST)}")
    if text.strip() == "auto" and name != "max_tokens":
        return name, None
    least, most = LOWEST[name], HIGHEST.get(name, float("inf"))
    try:
        value = type(least)(text)
    except ValueError:
        raise UsageError(f"/set {name} {text.strip()}: give a number") from None
    if not least <= value <= most:
        raise UsageError(f"/set {name} {text.strip()}: give {least} to {most}")
    return name, value
