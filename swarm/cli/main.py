"""The console script `swarm`: one entry point for all commands, `swarm server ...` = `python -m swarm.server ...`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import cast


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: What follows `swarm`.
        target: The module whose `main(argv) -> int` runs it; imported only then.
        text: One line for `swarm --help`.
    """

    name: str
    target: str
    text: str


COMMANDS = (
    Command("server", "swarm.server.__main__", "serve some blocks of a model"),
    Command("bootstrap", "swarm.bootstrap.__main__", "introduce peers to each other"),
    Command("gateway", "swarm.gateway.__main__", "answer OpenAI-compatible HTTP requests with models of a swarm"),
    Command("chat", "swarm.chat.__main__", "talk with a model of the swarm in this terminal"),
    Command("monitor", "swarm.monitor.__main__", "show the swarm as a live web page, with an API and a history"),
    Command("status", "swarm.status.__main__", "one look at the swarm: models, coverage, servers, alerts"),
    Command("doctor", "swarm.doctor.__main__", "find out what is wrong: here, in the swarm, or with a model"),
    Command("init", "swarm.cli.init", "begin a private swarm, and print the line with which others join it"),
    Command("join", "swarm.cli.join", "be in the swarm of a join line, from now on"),
    Command("invite", "swarm.cli.invite", "print the join line of the swarm that you are in"),
    Command("leave", "swarm.cli.leave", "forget the swarm joined last"),
    Command("keygen", "swarm.cli.keygen", "make a key for a private swarm, in a file"),
    Command("demo", "swarm.demo.__main__", "run a whole swarm on this machine and answer a prompt"),
    Command(
        "simulator", "swarm.simulator.__main__", "simulate thousands of servers, with the real placement and routes"
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (None is the process's own) begins with; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    first = words[0] if words else "--help"
    if first in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    if first == "--version":
        print(f"swarm {metadata.version('swarm')}")
        return 0
    for command in COMMANDS:
        if command.name == first:
            run_command = cast(Callable[[Sequence[str]], int], import_module(command.target).main)
            return run_command(words[1:])
    print(f"{usage()}\n\nswarm: error: no command {first!r}; choose one of the above", file=sys.stderr)
    return 2


def usage() -> str:
    """Return the help text: a line for each command."""
    width = max(len(command.name) for command in COMMANDS) + 2
    lines = [f"  {command.name:<{width}}{command.text}" for command in COMMANDS]
    return "\n".join(
        [
            "usage: swarm [--help] [--version] COMMAND ...",
            "",
            "Run big language models together: each peer serves some of the blocks.",
            "",
            "commands:",
            *lines,
            "",
            "`swarm COMMAND --help` tells the flags of a command.",
        ]
    )
