"""The engine: one compute thread that serves all sessions at once.

The compute thread alone touches the KV cache, its page tables and the scheduler, so none of them needs a lock; the
event loop only submits. What the thread does, turn by turn, is told in `swarm.server.turns`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from swarm.blocks import BlockStack, KVCache
from swarm.errors import Busy, HopFailed, SwarmError
from swarm.log import get_logger
from swarm.server.outboxes import replayed
from swarm.server.page_queue import PATIENCE
from swarm.server.sessions import Session
from swarm.server.turns import Deliver, Turns
from swarm.server.work import Work
from swarm.types import EngineStats
from swarm.wire import Replay

logger = get_logger(__name__)

T = TypeVar("T")

MAX_WAITING = 4096
"""Steps that may wait; beyond, submitters are told `Busy`."""

MAX_WAITING_BYTES = 256 * 1024 * 1024
"""Activations that may wait, of all clients together."""

CHECK_AFTER = 1.0
"""Seconds of silence after which page tables are verified, once."""


class Engine:
    """Runs steps through a `BlockStack`, on a thread of its own.

    Use as a context manager on the event loop: leaving it waits for the running batch and drops what still waits.
    """

    def __init__(self, stack: BlockStack, cache: KVCache, *, threads: int) -> None:
        self._stack = stack
        self._cache = cache
        self._threads = threads
        self._inbox: queue.SimpleQueue[Callable[[], None] | Work] = queue.SimpleQueue()
        self._turns = Turns(stack, cache, deliver=self._done, has_news=lambda: not self._inbox.empty())
        self._deliver: Deliver = lambda works: None
        # Each is written by one thread: the first two by the event loop, the others by the compute thread.
        self._num_submitted = self._bytes_submitted = self._num_done = self._bytes_done = 0
        self._is_checked = True
        self._fault: HopFailed | None = None
        self._is_leaving = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Begin; on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """Wait for the running batch, and drop what still waits; from any thread."""
        self._is_leaving = True
        self._inbox.put(lambda: None)
        self._thread.join(timeout=60.0)

    @property
    def load(self) -> int:
        """Steps waiting or running."""
        return self._num_submitted - self._num_done

    @property
    def bytes_waiting(self) -> int:
        """Activations of these steps."""
        return self._bytes_submitted - self._bytes_done

    @property
    def kernel(self) -> str:
        """What runs the blocks; see `BlockStack`."""
        return self._stack.kernel

    @property
    def num_pages(self) -> int:
        """KV pages of the pool."""
        return self._cache.num_pages

    @property
    def free_pages(self) -> int:
        """KV pages that no session holds; a moment old."""
        return self._cache.free_pages

    @property
    def is_crowded(self) -> bool:
        """Whether half of what may wait does: from now on nobody may have the most of it."""
        return self.load > MAX_WAITING // 2 or self.bytes_waiting > MAX_WAITING_BYTES // 2

    @property
    def is_short_of_pages(self) -> bool:
        """Whether steps of open sessions wait for pages: no time for new ones."""
        return self._turns.wants_pages or not self._cache.free_pages

    def deliver_to(self, deliver: Deliver) -> None:
        """Say who gets the works that are done; before the first is submitted."""
        self._deliver = deliver

    def submit(self, work: Work) -> None:
        """Queue a step; it is delivered once it has run, failed, or proved stale.

        Raises:
            Busy: Too many steps or bytes wait; nothing was queued.
        """
        if self.load >= MAX_WAITING or self.bytes_waiting + work.num_bytes > MAX_WAITING_BYTES:
            raise Busy(f"{self.load} steps with {self.bytes_waiting >> 20} MiB wait here: the most that is taken")
        self._num_submitted += 1
        self._bytes_submitted += work.num_bytes
        self._inbox.put(work)

    def find(self, session: Session, number: int, hashes: Sequence[bytes], found: Callable[[int], None]) -> None:
        """Let a sequence begin with kept pages; `found` is called on the event loop with the tokens it holds then."""

        def begin() -> None:
            tokens = self._turns.find(session, number, session.keys(hashes))
            self._loop.call_soon_threadsafe(found, tokens)

        self._inbox.put(begin)

    def replay(self, session: Session, message: Replay, failed: Callable[[SwarmError], None]) -> None:
        """Send a session's output on again; `failed` is called on the event loop if it is not held any more."""

        def send() -> None:
            if message.epoch < session.epoch:
                return  # given up meanwhile, or closed
            try:
                works = replayed(session, message)
            except SwarmError as error:
                self._loop.call_soon_threadsafe(failed, error)
                return
            session.num_replayed += len(works)
            self._deliver(works)

        self._inbox.put(send)

    def release(self, session: Session) -> None:
        """Drop what a session has here, its steps and its pages; the batch it may be in goes on without it."""
        self._inbox.put(lambda: self._turns.release(session))

    async def call(self, function: Callable[[], T]) -> T:
        """Run any function on the compute thread, in its turn; return its result, or raise what it raised."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # raised again where it is awaited
                future.set_exception(error)

        self._inbox.put(run)
        return await asyncio.wrap_future(future)

    def stats(self) -> EngineStats:
        """Return what the engine does; callable from any thread, a moment old."""
        stats = self._turns.stats()
        under_way = self.load
        waiting = min(under_way, stats.waiting + self._inbox.qsize())
        return replace(stats, waiting=waiting, running=under_way - waiting, bytes_waiting=self.bytes_waiting)

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            while not self._is_leaving:
                try:
                    self._take_in()
                    self._turns.turn()
                except Exception:  # a fault of ours: what it leaves behind cannot be relied on
                    logger.critical("the engine has failed: this server must be started anew", exc_info=True)
                    self._fault = HopFailed("this server's engine has failed")

    def _take_in(self) -> None:
        """Take what was submitted, and wait for it if there is nothing to do."""
        inbox, turns = self._inbox, self._turns
        if not turns.has_work:
            try:
                self._take(inbox.get(timeout=self._idle_timeout()))
            except queue.Empty:
                self._check()
        for _ in range(inbox.qsize()):  # what comes meanwhile waits for a turn
            self._take(inbox.get_nowait())

    def _idle_timeout(self) -> float | None:
        if self._turns.wants_pages:
            return PATIENCE
        return None if self._is_checked else CHECK_AFTER

    def _take(self, task: Callable[[], None] | Work) -> None:
        self._is_checked = False
        if not isinstance(task, Work):
            task()
            return
        if self._fault is None:
            self._turns.add(task)
        else:
            task.error = self._fault
            self._done([task])

    def _done(self, works: Sequence[Work]) -> None:
        self._num_done += len(works)
        for work in works:
            self._bytes_done += work.num_bytes
            work.owner.bytes_done += work.num_bytes
        self._deliver(works)

    def _check(self) -> None:
        """Nothing happens: verify that no page is lost."""
        if self._turns.wants_pages:
            return
        self._is_checked = True
        try:
            self._cache.check()
        except RuntimeError as fault:
            logger.critical("the KV pages are in disorder (%s): this server must be started anew", fault)
            self._fault = HopFailed("this server's KV pages are in disorder")
