"""The engine: one compute thread that runs steps through the blocks, in order of arrival.

The event loop submits work; what comes of it is sent by the compute thread where that can be, else by a callback
on the loop. The compute thread alone touches the KV cache and its page tables, so neither needs a lock. Running a
piece of work is three sentences: plan the rows (fork, roll back, reserve pages), run the blocks, keep what the next
hop needs. A piece that fails gives back the pages that it reserved: each of its rows holds `position` tokens then.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from swarm.blocks import BlockStack, KVCache, PageTable
from swarm.blocks import Row as BlockRow
from swarm.errors import BadResult, HopFailed, SessionLost, SwarmError
from swarm.log import get_logger
from swarm.types import Span
from swarm.wire import Message, Row

logger = get_logger(__name__)

T = TypeVar("T")

MAX_WAITING = 4096
"""Pieces of work that may wait; beyond, submitters are told `Busy`."""

Pack = Callable[["Work", Tensor], tuple[Message, memoryview]]
"""Called on the compute thread with the output (tokens, D): makes what is to be sent. The loop has other sessions
to serve, and code that runs once a step is some times slower there: its caches are cold."""

SendNow = Callable[[tuple[Message, memoryview] | None, SwarmError | None], bool]
"""Called on the compute thread with what `Pack` made, or with the error; returns whether no more is to be done. It
saves waking the loop, a tenth of a millisecond for a step, where that can be."""

Finished = Callable[[tuple[Message, memoryview] | None, SwarmError | None], None]
"""Called on the event loop with the same, if more is to be done."""


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """One step on its way through the engine.

    Attributes:
        sequences: The session's sequences by number; new ones are entered here.
        rows: What to do with each, and how many tokens of each the client wants back.
        hidden: (T, D) the rows' tokens one after another, in any float dtype.
        span: The blocks to run.
        is_stale: Asked right before running: a roll-back may have overtaken the step.
        keeps_all: Whether the output of every token is needed, by a next hop, or just the rows' `keep`.
        pack: Turns the output into what is sent.
        send_now: Sends it, where the compute thread can.
        finished: Sends it else, or tells the error.
        arrived_at: Monotonic time of the frame's arrival.
    """

    sequences: dict[int, PageTable]
    rows: Sequence[Row]
    hidden: Tensor
    span: Span
    is_stale: Callable[[], bool]
    keeps_all: bool
    pack: Pack
    send_now: SendNow
    finished: Finished
    arrived_at: float
    started_at: float = 0.0
    ended_at: float = 0.0


class Engine:
    """Runs work through a `BlockStack`, on a thread of its own.

    Use as a context manager on the event loop: leaving it waits for the running step and drops
    what still waits.
    """

    def __init__(self, stack: BlockStack, cache: KVCache, *, threads: int) -> None:
        self._stack = stack
        self._cache = cache
        self._threads = threads
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._num_submitted = self._num_run = 0  # the first is the loop's, the second the compute thread's
        self._is_leaving = False
        self._thread = threading.Thread(target=self._run, name="compute", daemon=True)

    def __enter__(self) -> Engine:
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_leaving = True
        self._tasks.put(None)
        self._thread.join(timeout=60.0)

    @property
    def load(self) -> int:
        """Steps waiting or running."""
        return self._num_submitted - self._num_run

    @property
    def kernel(self) -> str:
        """What runs the blocks; see `BlockStack`."""
        return self._stack.kernel

    @property
    def free_pages(self) -> int:
        """KV pages that nobody holds; a moment old."""
        return self._cache.free_pages

    @property
    def is_full(self) -> bool:
        """Whether no more work is taken."""
        return self.load >= MAX_WAITING

    def submit(self, work: Work) -> None:
        """Queue `work`; `send_now` and, if need be, `finished` are called once it has run, failed, or proved stale.

        For stale work they get neither a message nor an error.
        """
        self._num_submitted += 1
        self._tasks.put(lambda: self._step(work))

    async def call(self, function: Callable[[], T]) -> T:
        """Run any function on the compute thread, in its turn; return its result, or raise what it raised."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # raised again where it is awaited
                future.set_exception(error)

        self._tasks.put(run)
        return await asyncio.wrap_future(future)

    def release(self, sequences: dict[int, PageTable]) -> None:
        """Free all pages of a session, after the work already queued."""
        self._tasks.put(lambda: self._release(sequences))

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        with torch.inference_mode():
            while (task := self._tasks.get()) is not None and not self._is_leaving:
                task()

    def _step(self, work: Work) -> None:
        packed, error = None, None
        work.started_at = time.monotonic()
        try:
            if not work.is_stale():
                output = self._kept(work, self._forward(work))
                work.ended_at = time.monotonic()
                packed = work.pack(work, output)
        except SwarmError as refused:
            error = refused
        except Exception as fault:  # the engine's border: whatever a step does, the server goes on
            logger.exception("a step of %d rows failed in blocks %s", len(work.rows), work.span)
            error = HopFailed(f"{type(fault).__name__} in blocks {work.span}")
        self._num_run += 1
        if not work.send_now(packed, error):
            self._loop.call_soon_threadsafe(work.finished, packed, error)

    def _forward(self, work: Work) -> Tensor:
        hidden = work.hidden.to(self._stack.dtype)
        if not bool(hidden.isfinite().all()):
            raise BadResult("the activations of this step are not finite: the hop before sent rubbish")
        self._place_sequences(work)
        rows = [BlockRow(work.sequences[row.sequence], row.position, row.length) for row in work.rows]
        busy = [row for row in rows if row.length]
        try:
            for row in rows:
                self._cache.prepare(row.sequence, row.position, row.length)
            return self._stack.forward(hidden, busy, self._cache, span=work.span) if busy else hidden
        except Exception:
            for row in rows:
                if row.sequence.length > row.position:
                    self._cache.prepare(row.sequence, row.position, 0)
            raise

    def _place_sequences(self, work: Work) -> None:
        """Make each row's sequence hold its first `position` tokens, of its own or of its source.

        All forks of a step see the state before it, as when beams trade places: fork first, replace then.
        """
        fresh: dict[int, PageTable] = {}
        try:
            for row in work.rows:
                if row.sequence != row.source:
                    fresh[row.sequence] = self._cache.fork(_find(work.sequences, row.source), row.position)
                elif row.sequence not in work.sequences:
                    fresh[row.sequence] = self._cache.new_sequence()
        except SwarmError:
            self._release(fresh)
            raise
        replaced = {number: work.sequences[number] for number in fresh if number in work.sequences}
        work.sequences.update(fresh)
        self._release(replaced)

    def _kept(self, work: Work, output: Tensor) -> Tensor:
        """(T, D) -> the tokens that travel on: all of them, or the last `keep` of each row."""
        if work.keeps_all or all(row.keep == row.length for row in work.rows):
            return output
        pieces, end = [], 0
        for row in work.rows:
            end += row.length
            pieces.append(output[end - row.keep : end])
        return torch.cat(pieces)

    def _release(self, sequences: dict[int, PageTable]) -> None:
        for sequence in sequences.values():
            self._cache.release(sequence)
        sequences.clear()


def _find(sequences: dict[int, PageTable], number: int) -> PageTable:
    if number not in sequences:
        raise SessionLost(f"sequence {number} is not held here")
    return sequences[number]
