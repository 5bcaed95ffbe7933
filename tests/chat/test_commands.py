from __future__ import annotations

import pytest

from swarm.chat import ChatConfig
from swarm.chat.commands import Command, help_text, read_command, read_setting
from swarm.errors import UsageError


def test_a_line_is_said_or_obeyed() -> None:
    assert read_command("hello") is None
    assert read_command("//etc is a folder") is None
    assert read_command("/system be brief ") == Command("/system", "be brief")
    assert read_command("/exit") == Command("/quit")


def test_an_unknown_command_names_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="/route"):
        read_command("/rout")


def test_help_names_every_command() -> None:
    for name in ("/route", "/stats", "/retry", "/reset", "/system", "/set", "/help", "/quit"):
        assert name in help_text()


def test_settings_are_numbers_in_their_range() -> None:
    assert read_setting("temperature 0.7") == ("temperature", 0.7)
    assert read_setting("top_k 40") == ("top_k", 40)
    assert read_setting("temperature auto") == ("temperature", None)
    for wrong in ("", "temperature", "colour 1", "temperature hot", "temperature -1", "top_p 1.1", "max_tokens auto"):
        with pytest.raises(UsageError):
            read_setting(wrong)


def test_flags_are_held_to_the_same_ranges() -> None:
    with pytest.raises(UsageError, match=r"--top-p 1\.5: give 0\.0 to 1\.0"):
        ChatConfig(top_p=1.5)
    assert ChatConfig(temperature=0.0).temperature == 0.0
