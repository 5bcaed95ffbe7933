"""How a command lives and ends: loop, signals, exit status.

One signal asks, the second insists: SIGTERM or Ctrl-C cancels the main task once, which then cleans up in its
own time; the next one ends the process at once. Exit status: 0 done, or stopped on request; 1 a `SwarmError`,
told in one line; 70 a fault of ours (EX_SOFTWARE of sysexits.h); 128 + signal when a second signal came.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from swarm.errors import SwarmError
from swarm.log import get_logger, set_up

FAILED = 1
UNEXPECTED = 70

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

logger = get_logger(__name__)


class Debuggable(Protocol):
    """A config that says whether to log at DEBUG and to show tracebacks."""

    @property
    def debug(self) -> bool:
        """Whether `--debug` was given."""
        ...


Config = TypeVar("Config", bound=Debuggable)


def run(main: Callable[[Config], Coroutine[Any, Any, None]], config: Config) -> int:
    """Run `main(config)` under uvloop until it ends or a signal cancels it; return the exit status."""

    def drive(config: Config) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_until_signalled(main(config)))

    return run_plain(drive, config)


def run_plain(main: Callable[[Config], None], config: Config) -> int:
    """As `run`, for a main that needs no loop: Ctrl-C or SIGTERM unwinds it and ends it with status 130."""
    set_up(debug=config.debug)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main(config)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:  # the last resort of a command: every fault becomes one line and a status
        return _tell(error, debug=config.debug)
    return 0


async def _until_signalled(main: Coroutine[Any, Any, None]) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main)
    received: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        if received:
            _leave(number)
        received.append(number)
        logger.info("%s: stopping; once more ends at once", number.name)
        task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        await task
    except asyncio.CancelledError:
        # Ours to end here only if we cancelled: then the coroutine has cleaned up, and this is its normal end.
        if not received:
            raise
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _leave(number: signal.Signals) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a thread that computes, or a cleanup that hangs, must not hold the process.
    os._exit(128 + number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows has none
        return None
    return uvloop.new_event_loop


def _tell(error: Exception, *, debug: bool) -> int:
    leaves = list(_leaves(error))
    unexpected = [leaf for leaf in leaves if not isinstance(leaf, SwarmError)]
    if debug:
        traceback.print_exception(error)
    if unexpected:
        remedy = "" if debug else "; run again with --debug"
        print(f"error: unexpected {_line(unexpected[0], named=True)}{remedy}", file=sys.stderr)
        return UNEXPECTED
    print(f"error: {_line(leaves[0])}", file=sys.stderr)
    return FAILED


def _leaves(error: BaseException) -> list[BaseException]:
    """A task group wraps what its tasks raised, maybe several times."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _line(error: BaseException, *, named: bool = False) -> str:
    text = " ".join(str(error).split())
    name = type(error).__name__
    if not text:
        return name
    return f"{name}: {text}" if named else text
