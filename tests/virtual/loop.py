"""An event loop whose time jumps to the next timer when nothing is ready, and everybody's clocks with it."""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

from swarm.network import channel as channel_module

T = TypeVar("T")

START = 1000.0
"""What a monotonic clock shows at first; not 0, which code may take for "never"."""

UNIX_START = 1.7e9
"""The date at first."""

_TICK = 1e-6
"""Seconds by which each look at the clock moves it on: code that divides by a duration finds none of zero."""

_PATIENCE = 5.0
"""Real seconds for which another thread may be waited for when no timer is set."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only while nothing can be done."""

    def __init__(self) -> None:
        self._now = START
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now

    def look(self) -> float:
        """Return virtual seconds, as code sees them that asks the system's clock."""
        self._now += _TICK
        return self._now

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            if not (ready := super().select(_PATIENCE)):
                raise RuntimeError("nothing is ready and no timer is set: this waits for ever")
            return ready
        ready = super().select(0)
        if not ready and timeout > 0:
            self._loop.jump(timeout)
        return ready


@contextmanager
def clocks_of(loop: VirtualLoop) -> Iterator[None]:
    """Let the system's clocks show this thread the loop's time; other threads see the real one."""
    thread = threading.get_ident()

    def clock(real: Callable[[], float], shown: Callable[[], float]) -> Callable[[], float]:
        return lambda: shown() if threading.get_ident() == thread else real()

    with (
        patch.object(channel_module, "perf_counter", clock(time.perf_counter, loop.look)),
        patch.object(time, "monotonic", clock(time.monotonic, loop.look)),
        patch.object(time, "perf_counter", clock(time.perf_counter, loop.look)),
        patch.object(time, "time", clock(time.time, lambda: UNIX_START + loop.look())),
    ):
        yield


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a new virtual loop, from `START` on; all tasks have ended when it returns."""
    made: list[VirtualLoop] = []

    def make() -> VirtualLoop:
        made.append(VirtualLoop())
        return made[0]

    with asyncio.Runner(loop_factory=make) as runner:
        runner.get_loop()
        with clocks_of(made[0]):
            return runner.run(main)
