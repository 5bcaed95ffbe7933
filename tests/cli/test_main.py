"""The console script: which command runs, and what it says of itself."""

from __future__ import annotations

import sys
from importlib import metadata
from types import ModuleType

import pytest

from swarm.cli import main as console


def test_help_names_every_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in console.COMMANDS:
        assert f"  {command.name} " in shown and command.text in shown


def test_no_command_shows_the_help_and_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main([]) == 2
    assert "usage: swarm" in capsys.readouterr().out


def test_an_unknown_command_is_told_with_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["serve"]) == 2
    shown = capsys.readouterr().err
    assert "no command 'serve'" in shown and "  server " in shown


def test_version_is_that_of_the_installed_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: f"1.2.3 of {name}")
    assert console.main(["--version"]) == 0
    assert capsys.readouterr().out == "swarm 1.2.3 of swarm\n"


def test_a_command_gets_the_words_after_its_name_and_its_status_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    room = ModuleType("room")
    got = []
    room.main = lambda argv: got.append(argv) or 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "room", room)
    monkeypatch.setattr(console, "COMMANDS", (console.Command("serve", "room", "serve"),))
    assert console.main(["serve", "--port", "0", "--help"]) == 3
    assert got == [["--port", "0", "--help"]]
