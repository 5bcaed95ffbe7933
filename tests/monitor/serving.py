"""The real application over swarms that do not exist: on the loop of a test, or on a thread beside a browser."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from swarm.monitor import survey
from swarm.monitor.api import build_app
from swarm.monitor.board import Board
from swarm.monitor.history import History, Sample
from swarm.types import View
from swarm.web import Keys, serving


@dataclass
class Face:
    """A monitor's HTTP face, its board and its history."""

    url: str
    board: Board
    history: History
    loop: asyncio.AbstractEventLoop

    def put_up(self, views: Sequence[View]) -> None:
        """Show these views, from any thread."""
        state = survey(views, now=time.time())
        self.loop.call_soon_threadsafe(self.board.put_up, state)

    def note(self, samples: Sequence[Sample], now: float) -> None:
        """Write into the history, from another thread."""
        asyncio.run_coroutine_threadsafe(self.history.note(samples, now=now), self.loop).result(10)


@asynccontextmanager
async def face(folder: Path, *keys: str, port: int = 0) -> AsyncIterator[Face]:
    """Run one on this loop."""
    async with History.open(folder / "history.sqlite", days=30) as history:
        board = Board()
        async with serving(build_app(board, history, keys=Keys(keys)), host="127.0.0.1", port=port) as url:
            yield Face(url, board, history, asyncio.get_running_loop())


@contextmanager
def face_beside(folder: Path, *keys: str, port: int = 0) -> Iterator[Face]:
    """Run one on a thread of its own."""
    started: list[Face] = []
    ready, done = threading.Event(), threading.Event()

    async def live() -> None:
        async with face(folder, *keys, port=port) as shown:
            started.append(shown)
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(live()), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield started[0]
    finally:
        done.set()
        thread.join(20)
