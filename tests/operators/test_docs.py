"""What the documents tell people to type is accepted by the commands, and what they link to is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from swarm.cli.main import COMMANDS
from tests.operators.command_lines import MARKDOWN, ROOT, CommandLine, in_markdown, parse

NAMES = {command.name for command in COMMANDS}
LINES = [line for file in MARKDOWN for line in in_markdown(file)]
FOREIGN = {"--help", "--index-url", "--init", "--name", "--network", "--no-deps", "--now", "--rm", "--stop-timeout"}
"""Flags of other programs that our documents name, and those of every command."""


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_command_line_of_the_documents_is_accepted(line: CommandLine) -> None:
    name = line.words[0]
    if name in NAMES:
        assert parse(line.words) is not None
    elif not name.startswith("-"):
        assert importlib.util.find_spec(f"swarm.{name}"), f"no command and no module {name}"


def test_command_lines_are_found() -> None:
    assert {"server", "bootstrap", "simulator"} <= {line.words[0] for line in LINES}
    assert len(LINES) > 15


@pytest.mark.parametrize("file", MARKDOWN, ids=lambda file: file.name)
def test_every_flag_named_in_the_text_exists(file: Path) -> None:
    known = set(FOREIGN)
    for python in (*(ROOT / "swarm").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")):
        text = python.read_text(encoding="utf-8")
        known |= set(re.findall(r"--[a-z][a-z-]+", text)) if "benchmarks" in python.parts else set()
        if python.name == "config.py":
            known |= {"--" + name.replace("_", "-") for name in re.findall(r"^    ([a-z_]+): .*= field\(", text, re.M)}
            known |= {
                "--no-" + name.replace("_", "-")
                for name in re.findall(r"^    ([a-z_]+): bool = field\(\s*default=True", text, re.M)
            }
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", file.read_text(encoding="utf-8")))
    assert named <= known, sorted(named - known)


@pytest.mark.parametrize("file", MARKDOWN, ids=lambda file: file.name)
def test_every_link_between_documents_leads_somewhere(file: Path) -> None:
    prose = re.sub(r"`[^`]*`", "", file.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", prose)
    missing = [target for target in targets if not (file.parent / target).exists()]
    assert missing == []
