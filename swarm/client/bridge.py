"""The bridge: one background thread with an event loop, for callers that are not asynchronous.

All network code of the client is written once, as coroutines; `run` hands one to the loop and
waits for it. The thread is a daemon and is ended at exit, after what it still holds was closed.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

CLOSE_TIMEOUT = 5.0
"""Seconds that connections get to end cleanly at exit."""


class Bridge:
    """Runs coroutines on a loop of its own thread; only in the process that made it."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._serve, name="swarm", daemon=True)
        self._thread.start()
        self._at_exit: list[Callable[[], Coroutine[Any, Any, None]]] = []

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` on the loop and return its result, or raise what it raised.

        Interrupted (Ctrl-C): the coroutine is cancelled, and the interrupt goes on.
        """
        if problem := self._problem():
            coroutine.close()
            raise RuntimeError(problem)
        future = self.start(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def start(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run `coroutine` on the loop without waiting for it; cancelling what is returned cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def post(self, function: Callable[[], object]) -> None:
        """Call `function` on the loop, soon; for finalizers, which must not wait. Nothing happens after the end."""
        if self._pid == os.getpid() and not self._loop.is_closed():
            with suppress(RuntimeError):  # closed in this moment
                self._loop.call_soon_threadsafe(function)

    @property
    def is_alive(self) -> bool:
        """Whether coroutines can be run; not after `shut_down`."""
        return self._thread.is_alive()

    def at_exit(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have `close()` awaited when the process ends."""
        self._at_exit.append(close)

    def shut_down(self) -> None:
        """Close what is registered, then end the thread. Idempotent."""
        if not self._thread.is_alive():
            return

        async def close_all() -> None:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await asyncio.gather(*(close() for close in self._at_exit), return_exceptions=True)

        with suppress(TimeoutError):  # the daemon thread ends with the process
            self.run(close_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=1.0)
        if not self._thread.is_alive():
            self._loop.close()

    def _problem(self) -> str | None:
        """Why a caller here and now would wait for ever; None if he would not."""
        if threading.current_thread() is self._thread:
            return "a synchronous call from within the swarm's own loop would wait for itself"
        if self._pid != os.getpid():
            return "this belongs to the process that forked: load the model again in this one"
        return "the swarm's loop has ended with the process" if self._loop.is_closed() else None

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()


_bridge: Bridge | None = None
_owner_pid = 0
_lock = threading.Lock()


def bridge() -> Bridge:
    """Return this process's bridge; a forked child gets a new one, for threads do not survive a fork."""
    global _bridge, _owner_pid
    with _lock:
        if _bridge is None or _owner_pid != os.getpid() or not _bridge.is_alive:
            _bridge, _owner_pid = Bridge(), os.getpid()
            atexit.register(_bridge.shut_down)
        return _bridge


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows has none
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
