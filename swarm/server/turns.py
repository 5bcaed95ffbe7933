"""What the compute thread does, turn by turn: decodes, a slice of prefill, those who wait for pages.

No thread and no queue here: `Engine` adds works and calls `turn`. What is done is handed to `deliver`.

When pages run out, steps wait for those of others (`swarm.server.page_queue`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from swarm.blocks import PAGE_SLOTS, BlockStack, KVCache
from swarm.errors import Busy, SwarmError
from swarm.log import get_logger
from swarm.server.batcher import Batcher
from swarm.server.meters import Meters
from swarm.server.outboxes import OutboxBudget
from swarm.server.page_queue import PageQueue
from swarm.server.scheduler import Scheduler
from swarm.server.sessions import Session
from swarm.server.work import Piece, Run, Work
from swarm.types import EngineStats

logger = get_logger(__name__)

SLICE_SECONDS = 0.004
"""A slice of prefill while others decode: a few hundredths of what people notice between two tokens."""

IDLE_SLICE_SECONDS = 0.02
"""A slice while nobody decodes; it is cut short when something comes."""

BATCH_SECONDS = 0.05
"""A batch of prefills takes about so long by itself: a short prompt that comes later waits for it."""

MAX_BUDGET = 512
"""Tokens of a batch of prefills: more only take more memory."""

FULL_BATCH = {"cuda": 512, "torch": 128, "transformers": 128}
NATIVE_FULL_BATCH = 32
"""Tokens from which on a kernel is as fast as it gets. No batch is cut shorter; and with as many, further prompts wait
for the next one, so that the first of them is on its way to the next hop meanwhile."""

Deliver = Callable[[Sequence[Work]], None]
"""Gets works that are done, each with its output or error, or stale without either."""


class Turns:
    """Works under way: waiting, in a batch, or in want of pages."""

    def __init__(self, stack: BlockStack, cache: KVCache, *, deliver: Deliver, has_news: Callable[[], bool]) -> None:
        """Begin with nothing.

        Args:
            stack: What runs the batches.
            cache: Of the stack; nobody else touches it.
            deliver: See `Deliver`.
            has_news: Whether something came that `turn` does not know of.
        """
        self._cache = cache
        self._num_blocks = len(stack.span)
        self._full_batch = FULL_BATCH.get(stack.kernel, NATIVE_FULL_BATCH)
        self._scheduler: Scheduler[Work] = Scheduler()
        self._batcher = Batcher(stack, cache)
        self._meters = Meters()
        self._outboxes = OutboxBudget()
        self._deliver = deliver
        self._has_news = has_news
        self._prefill: Run | None = None
        self._blocked = PageQueue()
        self._sessions: set[Session] = set()  # those with sequences here
        self._decode_seconds = 0.0

    @property
    def has_work(self) -> bool:
        """Whether a turn would bring something forward."""
        return self._prefill is not None or self._scheduler.num_waiting > 0

    @property
    def wants_pages(self) -> bool:
        """Whether steps wait for pages: a turn is due in a while, whatever comes."""
        return len(self._blocked) > 0

    @property
    def num_waiting(self) -> int:
        """Steps that are in no batch."""
        return self._scheduler.num_waiting + len(self._blocked)

    def add(self, work: Work) -> None:
        """Take a step in."""
        self._scheduler.add(work)

    def release(self, session: Session) -> None:
        """Drop what a session has here, which has ended: its epoch is beyond all, so that its works are stale."""
        if self._prefill is not None:
            self._drop_stale(self._prefill)
        waiting = self._scheduler.drop(session.session_id)
        self._finish([*waiting, *self._stale_blocked()])
        self._batcher.release(session)
        self._sessions.discard(session)

    def find(self, session: Session, number: int, keys: Sequence[bytes]) -> int:
        """Let a sequence begin with kept pages; return the tokens that it holds then."""
        if self._prefill is not None:
            self._drop_stale(self._prefill)
        if session.is_closed or self._scheduler.has_steps(session.session_id):
            return 0  # it overtakes no step: what those are about must not be replaced under them
        self._sessions.add(session)
        tokens = self._batcher.find(session, number, keys)
        self._meters.prefix_wanted += len(keys) * PAGE_SLOTS
        self._meters.prefix_found += tokens
        return tokens

    def stats(self) -> EngineStats:
        """Return what is done here; callable from any thread, a moment old."""
        cache, meters, run = self._cache, self._meters, self._prefill
        rates, (p50, p95, p99) = meters.rates(), meters.waiting_time(0.5, 0.95, 0.99)
        return EngineStats(
            sessions=len(self._sessions),
            running=0 if run is None else len(run.pieces),
            waiting=self.num_waiting,
            pages=cache.num_pages,
            pages_used=cache.num_pages - cache.free_pages,
            pages_cached=cache.idle_pages,
            sequences=cache.num_sequences,
            prefill_per_s=rates.prefill_per_s,
            decode_per_s=rates.decode_per_s,
            batch_rows=rates.batch_rows,
            batch_rows_max=rates.batch_rows_max,
            queue_p50=p50,
            queue_p95=p95,
            queue_p99=p99,
            num_busy=meters.num_busy,
            prefix_wanted=meters.prefix_wanted,
            prefix_found=meters.prefix_found,
        )

    def turn(self) -> None:
        """Decode, then prefill a little, then see to those who wait for pages."""
        started = time.monotonic()
        if decodes := self._scheduler.next_decodes(started):
            self._decode(decodes, started)
        if self._prefill is None:
            self._begin_prefill()
        if self._prefill is not None:
            self._advance(self._prefill)
        if self._blocked:
            self._see_to_blocked()

    def _decode(self, works: Sequence[Work], started: float) -> None:
        pieces = [piece for work in works if (piece := self._begun(work, work.tokens)) is not None]
        if pieces:
            self._batcher.run_whole(pieces)
            now = time.monotonic()
            self._decode_seconds = now - started
            rows = sum(len(piece.rows) for piece in pieces)
            self._meters.ran(now, is_decode=True, tokens=sum(piece.tokens for piece in pieces), rows=rows)
        self._finish([work for work in works if work not in self._blocked])

    def _begin_prefill(self) -> None:
        now = time.monotonic()
        pieces: list[Piece] = []
        over: list[Work] = []
        for work, tokens in self._scheduler.next_prefills(self._budget(now), now, fill=self._full_batch):
            if pieces and work.owner.span != pieces[0].work.owner.span:
                self._scheduler.put_back(work, unused=tokens)
            elif (piece := self._begun(work, tokens)) is not None:
                pieces.append(piece)
            elif work not in self._blocked:
                over.append(work)
        self._finish(over)
        if pieces:
            run = Run(pieces)
            try:
                self._batcher.require_finite(run)
            except SwarmError:
                self._settle(pieces, self._batcher.run_whole(pieces))  # finds out who is to blame
            else:
                self._prefill = run

    def _begun(self, work: Work, tokens: int) -> Piece | None:
        """Make room for a part of a work; None if it is stale, failed, or waits for pages from now on."""
        if work.is_stale:
            if work.outputs:
                self._batcher.undo(work)
            return None
        if not work.started_at:
            work.started_at = time.monotonic()
            self._meters.waited(work.started_at - work.arrived_at)
        try:
            piece = self._batcher.begin(work, tokens)
        except Busy:
            self._blocked.add(work, num_free=self._cache.free_pages, now=time.monotonic())
            return None
        except Exception as fault:  # the engine's border
            self._batcher.fail(work, fault)
            return None
        self._sessions.add(work.owner)
        return piece

    def _advance(self, run: Run) -> None:
        """Run a slice of a batch of prefills; commit it if that was the last."""
        self._drop_stale(run)
        if not run.pieces:
            self._prefill = None
            return
        started = time.monotonic()
        deadline = started + self._slice_seconds(started)
        pieces, first, now = list(run.pieces), run.block, started
        is_quiet = not self._scheduler.is_decoding(started)
        try:
            while not run.is_done and now < deadline:
                left = deadline - now
                self._batcher.forward(run, max(1, int(left / self._meters.prefill_seconds(run.tokens))))
                now = time.monotonic()
                if is_quiet and self._has_news():
                    break
        except Exception:  # the engine's border; the whole batch is begun again, piece by piece
            logger.exception("a batch of %d prefills failed in blocks %s", len(pieces), run.span)
            self._prefill = None
            self._settle(pieces, [piece for lone in pieces for piece in self._batcher.run_whole([lone])])
            return
        self._meters.prefilled(now - started, tokens=run.tokens, blocks=run.block - first)
        if run.is_done:
            self._prefill = None
            self._batcher.commit(run)
            self._settle(pieces, pieces)

    def _settle(self, pieces: Sequence[Piece], done: Sequence[Piece]) -> None:
        """Finish the works of a batch of prefills that are over; let the others go on later."""
        now = time.monotonic()
        self._meters.ran(now, is_decode=False, tokens=sum(piece.tokens for piece in done), rows=len(done))
        over: list[Work] = []
        for piece in pieces:
            if piece.work.error is not None or piece.work.tokens_left == 0:
                over.append(piece.work)
            else:
                self._scheduler.put_back(piece.work)
        self._finish(over)

    def _finish(self, works: Sequence[Work]) -> None:
        """Hand over works that have run, failed or proved stale."""
        now = time.monotonic()
        for work in works:
            if work.error is None and not work.is_stale and work.tokens_left == 0:
                self._complete(work)
            work.ended_at = now
            self._scheduler.finish(work)
            self._meters.num_busy += isinstance(work.error, Busy)
        if works:
            self._deliver(works)

    def _complete(self, work: Work) -> None:
        try:
            self._batcher.complete(work)
            if work.step.route and work.answer is not None:
                self._outboxes.added(len(work.answer), self._sessions)
        except Exception as fault:  # the engine's border
            self._batcher.fail(work, fault)

    def _drop_stale(self, run: Run) -> None:
        if gone := [piece for piece in run.pieces if piece.work.is_stale]:
            run.remove(gone)
            for piece in gone:
                self._batcher.undo(piece.work)
            self._finish([piece.work for piece in gone])

    def _slice_seconds(self, now: float) -> float:
        if self._scheduler.is_decoding(now):
            return max(SLICE_SECONDS, self._decode_seconds)
        return IDLE_SLICE_SECONDS

    def _budget(self, now: float) -> int:
        if self._scheduler.num_ready == 1 and not self._scheduler.is_decoding(now):
            return MAX_BUDGET  # nobody waits for the end of this batch
        per_token = self._meters.prefill_seconds(1) * self._num_blocks
        return min(MAX_BUDGET, max(self._full_batch, int(BATCH_SECONDS / per_token)))

    def _stale_blocked(self) -> list[Work]:
        gone = self._blocked.take_stale()
        for work in gone:
            self._batcher.undo(work)
        return gone

    def _see_to_blocked(self) -> None:
        """Let works that wait for pages try again, or give way."""
        now, blocked = time.monotonic(), self._blocked
        gone = self._stale_blocked()
        if (following := blocked.next(num_free=self._cache.free_pages, now=now)) is not None:
            self._scheduler.put_back(following)
        elif (victim := blocked.victim(self._sessions, now=now)) is not None:
            free, pages = self._cache.free_pages, self._cache.num_pages
            victim.error = Busy(f"{free} of {pages} KV pages are free here and others wait for them", retry_after=1.0)
            self._batcher.undo(victim)
            gone.append(victim)
        self._finish(gone)
