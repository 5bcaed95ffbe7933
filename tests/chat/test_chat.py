"""The terminal chat as a person has it: in a real terminal, on a live swarm whose servers die."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("termios", reason="a pseudo-terminal is needed")

from swarm.blocks.files.bundled import default_cache
from swarm.demo.fleet import Fleet
from tests import zygote
from tests.chat.terminal import Terminal, take_picture, terminal
from tests.pictures import chromium, picture_path

pytestmark = pytest.mark.slow

STORY = "Tell me a long story about a lighthouse keeper and his parrot."


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cache of its own, for the history, with the machine's models in it."""
    folder = tmp_path_factory.mktemp("cache")
    for entry in default_cache().iterdir():
        if not entry.name.startswith("chat_"):
            (folder / entry.name).symlink_to(entry)
    return {"SWARM_CACHE": str(folder)}


@pytest.fixture(scope="module")
def talking(servers: Fleet, cache: dict[str, str]) -> Iterator[Terminal]:
    """A chat in a terminal, greedy, so that equal questions have equal answers."""
    flags = ["--initial-peers", servers.addr, "--max-tokens", "160", "--temperature", "0"]
    with terminal("swarm.chat", *flags, env=cache, rows=20) as shown:
        shown.wait_idle()
        yield shown


@pytest.fixture
def shown(talking: Terminal) -> Terminal:
    """The same, with nothing said yet."""
    talking.say("/reset")
    talking.wait_idle()
    return talking


def squeezed(text: str) -> str:
    """Without blanks and line ends: where a terminal breaks lines is its own affair."""
    return "".join(text.split())


def after(shown: Terminal, text: str) -> str:
    """What stands behind the last place of `text`, without the last row."""
    return "".join(shown.lines()[:-1]).rpartition(text)[2]


def test_ctrl_c_stops_the_answer_and_not_the_program(shown: Terminal) -> None:
    shown.type("\x03")
    shown.wait_text("Ctrl-D or /quit leaves")
    shown.say(STORY)
    shown.wait(lambda shown: len(after(shown, STORY)) > 60)
    shown.type("unseen\x03")
    shown.wait_text("stopped · ")
    answer = shown.text_between(f"» {STORY}", "stopped · ")
    assert len(answer) > 20 and "unseen" not in answer and "^C" not in answer
    shown.say("/retry")
    shown.wait(
        lambda shown: squeezed(answer) in squeezed(after(shown, "» /retry"))
    )  # the same question, from its begin
    shown.type("\x03")
    shown.wait_idle()


def test_lines_are_edited_and_commands_obeyed(shown: Terminal, cache: dict[str, str]) -> None:
    shown.say("/system Answer in one word.")
    shown.wait_text("system: Answer in one word.")
    shown.say("/system -")
    shown.wait_text("system: nothing")
    shown.say("Please name the capital of France.")
    shown.wait_text("Paris")
    shown.say("/frobnicate")
    shown.wait_text("error: no command /frobnicate")
    shown.wait_idle()
    shown.type("\x1b[A\x1b[A\x01Say it again. \n")  # the arrow brings the line before the last, Ctrl-A its begin
    shown.wait_text("» Say it again. Please name the capital of France.")
    shown.wait(lambda shown: "Paris" in after(shown, "Say it again."))


def test_the_status_keeps_its_row_in_windows_that_change_and_leaves_small_ones(shown: Terminal) -> None:
    shown.say(STORY)
    for rows, columns in ((16, 60), (8, 40), (20, 100)):
        shown.resize(rows, columns)
        shown.wait(lambda shown: "tokens/s" in shown.status() or "tokens · " in shown.status())
    shown.resize(4, 40)
    before = num_stopped(shown)
    shown.type("\x03")
    shown.wait(lambda shown: num_stopped(shown) > before)
    shown.resize(20, 100)
    shown.clear()  # pyte, unlike terminals, leaves pieces of lines that it has cut off


def num_stopped(shown: Terminal) -> int:
    """How many answers were stopped, as far as can be seen."""
    return sum(line.startswith("stopped · ") for line in shown.lines())


def test_the_text_goes_on_unharmed_when_a_server_dies_and_the_status_says_so(
    servers: Fleet, shown: Terminal, tmp_path: Path
) -> None:
    shown.say(STORY)
    shown.wait_idle()
    undisturbed = shown.text_between(f"» {STORY}", "160 tokens · ")
    summary = [line for line in shown.lines() if "160 tokens · " in line][-1]
    assert "fail-over" not in summary and "0:12 Ada → 12:21 " in summary

    shown.clear()
    shown.say("/reset")
    shown.say(STORY)
    shown.wait(lambda shown: " tokens/s · 0:12 Ada → 12:21 " in shown.status())
    middle = "Ben" if "12:21 Ben" in shown.status() else "Dora"
    other = {"Ben": "Dora", "Dora": "Ben"}[middle]
    servers.signal(middle, signal.SIGKILL)
    shown.wait(lambda shown: f"fail-over: {other} took over 12:21" in shown.status())
    shown.wait(lambda shown: len(after(shown, STORY)) > 400)
    page = shown.to_html()
    shown.wait_idle()
    text = shown.text_between(f"» {STORY}", "160 tokens · ")
    assert squeezed(text) == squeezed(undisturbed) and len(text) > 300
    assert "1 fail-over" in [line for line in shown.lines() if "160 tokens · " in line][-1]
    assert not any("tokens/s" in line or "fail-over" in line for line in text.splitlines())
    assert shown.status() in ("", "»")  # the last row is the terminal's own again

    shown.say("/route")
    shown.wait_text("hops were replaced 1 time")
    shown.say("/log")
    shown.wait_text("goes on over 12:21")
    shown.say("/stats")
    shown.wait_text("fail-overs  1 fail-over")
    if browser := chromium():
        path = picture_path("chat-terminal", tmp_path)
        take_picture(page, path, browser)
        assert path.stat().st_size > 5000


def test_the_program_ends_when_asked_and_keeps_what_was_typed(shown: Terminal, cache: dict[str, str]) -> None:
    shown.type("\x04")
    assert shown.wait_ended() == 0
    history = Path(cache["SWARM_CACHE"]) / "chat_history"
    assert f"\n{STORY}\n" in history.read_text(encoding="utf-8")
    assert history.stat().st_mode & 0o77 == 0


def test_what_is_piped_is_text_and_nothing_else(servers: Fleet, cache: dict[str, str]) -> None:
    words = [sys.executable, "-m", "swarm.chat", "--initial-peers", servers.addr, "--temperature", "0"]
    asked = "Please name the capital of France.\nAnd of Italy?\n"
    done = zygote.run(words, asked, env={**os.environ, **cache}, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    first, second = done.stdout.splitlines()
    assert "Paris" in first and "Rome" in second  # "Italy" alone is no question: the first one was kept
