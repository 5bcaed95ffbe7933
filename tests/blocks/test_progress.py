"""Progress: a bar where somebody looks on, few lines where nobody does."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from swarm.blocks.progress import Lines


class Watch:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(seconds_each: float, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.INFO, "swarm")
    caplog.clear()
    watch = Watch()
    told = Lines("loading 0:40", 40, "block", clock=watch)
    for done in range(1, 41):
        watch.now += seconds_each
        told(done)
    return caplog.messages


def test_each_tenth_of_something_long_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    lines = lines_of(1.0, caplog)
    assert lines[:2] == ["loading 0:40: 10 % (4 blocks of 40 blocks)", "loading 0:40: 20 % (8 blocks of 40 blocks)"]
    assert len(lines) == 10 and lines[-1].startswith("loading 0:40: 100 %")


def test_what_is_over_soon_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert lines_of(0.01, caplog) == []


CODE = """
import time
from swarm.blocks.progress import progress
from swarm.log import get_logger, set_up
set_up(debug=False)
with progress("loading", 4, "block") as told:
    for done in range(1, 5):
        time.sleep(0.15)
        told(done)
        if done == 2:
            get_logger("swarm.x").info("said meanwhile")
get_logger("swarm.x").warning("afterwards")
"""


def test_on_a_terminal_there_is_a_bar_that_makes_way_for_the_log() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen([sys.executable, "-c", CODE], stderr=theirs, stdout=subprocess.DEVNULL) as child:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the terminal is gone with its last writer
                break
            if not part:
                break
            shown += part
        assert child.wait(30) == 0
    os.close(ours)
    text = shown.decode()
    assert "loading:  50%" in text and "/4" in text
    assert "\r\x1b[K" in text and "said meanwhile\r\n" in text
    last = text.rsplit("\r", 2)[-2]  # the bar is wiped out at its end, and what follows begins at the left
    assert last.endswith("WARNING: afterwards") and "loading" not in last
