"""A terminal with a program in it: a real pseudo-terminal, and what pyte makes of what the program writes."""

from __future__ import annotations

import fcntl
import html
import os
import pty
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path

import pyte
from playwright.sync_api import sync_playwright

_COLOURS = {"brown": "#f0b840", "red": "#ff8593", "brightblack": "#91a198"}


class _Screen(pyte.HistoryScreen):  # type: ignore[misc]
    """pyte knows no faint letters: they become grey."""

    def select_graphic_rendition(self, *attrs: int) -> None:
        super().select_graphic_rendition(*(90 if attr == 2 else attr for attr in attrs))


class Terminal:
    """What a person would see; made by `terminal`."""

    def __init__(self, child: int, descriptor: int, *, rows: int, columns: int) -> None:
        self.child = child
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._screen = _Screen(columns, rows, history=1000)
        self._stream = pyte.ByteStream(self._screen)
        self.statuses: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._descriptor, text.encode())

    def clear(self) -> None:
        """Have an empty screen (Ctrl-L), and forget what was scrolled away."""
        self.type("\x0c")
        self.wait(lambda self: len([line for line in self.lines()[-self._screen.lines :] if line]) <= 1)
        with self._lock:
            self._screen.history.top.clear()

    def resize(self, rows: int, columns: int) -> None:
        """Drag the window's corner."""
        with self._lock:
            self._screen.set_margins()  # as xterm does; pyte would keep what stood below them for ever
            self._screen.resize(rows, columns)
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def lines(self) -> list[str]:
        """Return all lines, those that have been scrolled away too, without blanks at their ends."""
        with self._lock:
            columns = self._screen.columns
            past = ["".join(row[column].data for column in range(columns)) for row in self._screen.history.top]
            return [line.rstrip() for line in [*past, *self._screen.display]]

    def status(self) -> str:
        """Return the last row."""
        with self._lock:
            return str(self._screen.display[-1]).rstrip()

    def wait(self, seen: Callable[[Terminal], bool], timeout: float = 60.0) -> None:
        """Wait until something is to be seen."""
        deadline = time.monotonic() + timeout
        while not seen(self):
            assert time.monotonic() < deadline, "\n".join(self.lines())
            time.sleep(0.02)

    def wait_text(self, text: str, timeout: float = 60.0) -> None:
        """Wait for a piece of text."""
        self.wait(lambda self: any(text in line for line in self.lines()), timeout)

    def wait_idle(self, timeout: float = 60.0) -> None:
        """Wait until the program asks for a line."""
        self.wait(lambda self: [line for line in self.lines() if line][-1:] == ["»"], timeout)

    def say(self, line: str) -> None:
        """Type a line where the program asks for one, and wait until it is taken."""
        self.wait_idle()
        shown, before = f"» {line}", self.lines().count(f"» {line}")
        self.type(f"{line}\n")
        self.wait(lambda self: self.lines().count(shown) > before)

    def text_between(self, first: str, second: str) -> str:
        """Return what stands between the last line that begins with `first` and the next one with `second` in it."""
        lines = self.lines()
        begin = max(index for index, line in enumerate(lines) if line.startswith(first))
        end = next(index for index, line in enumerate(lines) if index > begin and second in line)
        return "\n".join(lines[begin + 1 : end])

    def wait_ended(self, timeout: float = 20.0) -> int:
        """Return the exit status of the program."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            child, status = os.waitpid(self.child, os.WNOHANG)
            if child:
                self.child = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        raise AssertionError("the program runs on")

    def to_html(self) -> str:
        """Return the screen as a page that looks like a window."""
        with self._lock:
            buffer, columns = self._screen.buffer, range(self._screen.columns)
            rows = [[buffer[row][column] for column in columns] for row in range(self._screen.lines)]
        return _PAGE.replace("SCREEN", "".join(map(_row, rows)))

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._descriptor, 65536)
            except OSError:  # Linux's way to say that the program has ended
                return
            if not data:
                return
            with self._lock:
                self._stream.feed(data)
                if not self.statuses or self.statuses[-1] != self._screen.display[-1].rstrip():
                    self.statuses.append(self._screen.display[-1].rstrip())


@contextmanager
def terminal(*args: str, env: Mapping[str, str], rows: int = 30, columns: int = 100) -> Iterator[Terminal]:
    """Run `python -m ARGS` in a terminal until the block is left."""
    child, descriptor = pty.fork()
    if not child:
        os.execvpe(sys.executable, [sys.executable, "-m", *args], {**os.environ, "TERM": "xterm-256color", **env})
    shown = Terminal(child, descriptor, rows=rows, columns=columns)
    shown.resize(rows, columns)
    try:
        yield shown
    finally:
        if shown.child:
            with suppress(ProcessLookupError):
                os.kill(shown.child, signal.SIGTERM)
            shown.wait_ended()
        os.close(descriptor)


def take_picture(page: str, path: Path, executable: str) -> None:
    """Have a browser draw a terminal's page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        shown = browser.new_page(device_scale_factor=1.5)
        shown.set_content(page)
        shown.locator("main").screenshot(path=path, omit_background=True)
        browser.close()


def _row(cells: list[pyte.screens.Char]) -> str:
    runs = ((style, "".join(cell.data for cell in run)) for style, run in groupby(cells, _style))
    row = "".join(f'<b style="{style}">{html.escape(text)}</b>' if style else html.escape(text) for style, text in runs)
    is_news = any(cell.reverse for cell in cells)
    return f'<div class="{"news" if is_news else ""}">{row}</div>'


def _style(cell: pyte.screens.Char) -> str:
    colour = "#221700" if cell.reverse else _COLOURS.get(cell.fg, "")
    return (f"color:{colour};" if colour else "") + ("font-weight:600" if cell.bold else "")


_PAGE = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; padding: 24px; background: #eef2ee; width: max-content; }
main { display: inline-block; background: #0e1412; color: #e6ede8; border-radius: 12px; overflow: hidden; }
header { background: #1c2622; color: #91a198; font: 13px/34px "DejaVu Sans", sans-serif; text-align: center; }
i { float: left; width: 11px; height: 11px; margin: 11.5px -6px 0 14px; border-radius: 50%; background: #4a5b53; }
pre { margin: 0; padding: 14px 0; font: 14px/1.42 "DejaVu Sans Mono", monospace; }
b { font-weight: 400; }
div { min-height: 1.42em; padding: 0 20px; }
.news { background: #f0b840; }
</style><main><header><i></i><i></i><i></i>swarm chat</header><pre>SCREEN</pre></main>"""
