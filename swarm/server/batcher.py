"""Runs batches of works on the stack, over its cache; for the compute thread.

Three sentences: `begin` makes room for a part of a work (fork, roll back, reserve pages), `forward` runs a batch
through blocks, `complete` keeps what is needed of a work that has run to its end. A work that fails, or is given up
half way, is undone: each of its rows holds `position` tokens then.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from swarm.blocks import BlockStack, KVCache, PageTable
from swarm.blocks import Row as BlockRow
from swarm.errors import BadResult, HopFailed, SessionLost, SwarmError
from swarm.log import get_logger
from swarm.server.sessions import Session
from swarm.server.work import Piece, Run, Work, kept_of, rows_between
from swarm.wire.codecs import decode_tensor, encode_tensor

logger = get_logger(__name__)


class Batcher:
    """The hands of the engine."""

    def __init__(self, stack: BlockStack, cache: KVCache) -> None:
        self._stack = stack
        self._cache = cache

    def begin(self, work: Work, tokens: int) -> Piece:
        """Make room for the next `tokens` of `work`.

        Raises:
            Busy: Not enough pages; the work may be begun again.
            SessionLost: A row begins beyond what its sequence holds. In each case nothing is reserved.
        """
        if work.hidden is None:
            self._read(work)
        try:
            if not work.is_placed:
                self._place_sequences(work)
            rows = [
                self._prepared(work, row.sequence, position, length)
                for row, position, length in rows_between(work.step.rows, work.done, work.done + tokens)
            ]
        except SwarmError:
            if not work.outputs:
                self.undo(work)
            raise
        return Piece(work, work.done, tokens, rows)

    def forward(self, run: Run, num_blocks: int) -> None:
        """Bring a batch `num_blocks` further, or to its end."""
        span = run.next_blocks(num_blocks)
        if run.tokens:
            # They go on here or at the next hop: only the session's codec may round them.
            run.hidden = self._stack.forward(run.hidden, run.rows, self._cache, span=span, goes_on=True)
        run.block = span.end

    def run_whole(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Run pieces through all their blocks, as few batches as can be; return those that did.

        Others have their `error` and are undone. One that breaks a batch fails alone.
        """
        done: list[Piece] = []
        for span in dict.fromkeys(piece.work.owner.span for piece in pieces):
            batch = [piece for piece in pieces if piece.work.owner.span == span]
            run = Run(batch)
            try:
                self.require_finite(run)
                self.forward(run, len(span))
                self.commit(run)
                done += batch
            except Exception as fault:  # the engine's border: whatever a step does, the server goes on
                if len(batch) > 1:
                    done += [piece for lone in batch for piece in self.run_whole([lone])]
                else:
                    self.fail(batch[0].work, fault)
        return done

    def require_finite(self, run: Run) -> None:
        """Check what goes into a batch.

        Raises:
            BadResult: Some number is infinite or none.
        """
        if not bool(run.hidden.isfinite().all()):
            raise BadResult("the activations of this step are not finite: the hop before sent rubbish")

    def commit(self, run: Run) -> None:
        """Give each piece's work its output."""
        for piece, part in run.parts():
            piece.work.outputs.append(part)
            piece.work.done += piece.tokens

    def complete(self, work: Work) -> None:
        """Take a work's output together, as it is sent, and keep what may be wanted again: that, and marked pages."""
        if work.step.marks:
            for row, first, keys in work.marked_pages():
                self._cache.keep(work.owner.sequences[row.sequence], first, keys)
        session = work.owner
        whole = torch.cat(work.outputs) if len(work.outputs) > 1 else work.outputs[0]
        rows, route = work.step.rows, work.step.route
        sent = encode_tensor(whole if route else kept_of(rows, whole), session.codec)
        if session.next_peer:  # what ends here in a replay may have to be sent on in the next
            session.outbox.append(rows, sent if route else encode_tensor(whole, session.codec))
        work.answer = sent

    def fail(self, work: Work, fault: Exception) -> None:
        """Undo a work and note why."""
        if isinstance(fault, SwarmError):
            work.error = fault
        else:
            logger.error("a step of %d rows failed in blocks %s", len(work.step.rows), work.owner.span, exc_info=fault)
            work.error = HopFailed(f"{type(fault).__name__} in blocks {work.owner.span}")
        self.undo(work)

    def undo(self, work: Work) -> None:
        """Let each row hold its first `position` tokens, if the work has got so far as to touch them."""
        if not work.is_placed:
            return
        for row in work.step.rows:
            sequence = work.owner.sequences.get(row.sequence)
            if sequence is not None and sequence.length > row.position:
                self._cache.prepare(sequence, row.position, 0)

    def find(self, session: Session, number: int, keys: Sequence[bytes]) -> int:
        """Let sequence `number` begin with kept pages; return the tokens that it holds then."""
        sequence = self._cache.find(keys)
        self.release_one(session, number)
        session.sequences[number] = sequence
        session.outbox.begin(number, sequence.length)
        return sequence.length

    def release_one(self, session: Session, number: int) -> None:
        """Give back a sequence's pages, if there is one."""
        if (old := session.sequences.pop(number, None)) is not None:
            self._cache.release(old)

    def release(self, session: Session) -> None:
        """Give back all pages of a session."""
        for number in tuple(session.sequences):
            self.release_one(session, number)

    def _read(self, work: Work) -> None:
        assert work.body is not None
        width = self._stack.config.hidden_size
        work.hidden = decode_tensor(work.body, work.step.codec, tokens=work.tokens, hidden_size=width)
        work.body = None

    def _prepared(self, work: Work, number: int, position: int, length: int) -> BlockRow:
        sequence = work.owner.sequences[number]
        self._cache.prepare(sequence, position, length)
        return BlockRow(sequence, position, length)

    def _place_sequences(self, work: Work) -> None:
        """Make each row's sequence hold its first `position` tokens, of its own or of its source.

        All forks of a step see the state before it, as when beams trade places: fork first, replace then. In
        another try of the step they are there already.
        """
        sequences, fresh = work.owner.sequences, dict[int, PageTable]()
        outbox, step = work.owner.outbox, work.step
        try:
            for row in step.rows:
                if row.sequence != row.source and not outbox.has_forked(step.step):
                    fresh[row.sequence] = self._cache.fork(_find(sequences, row.source), row.position)
                elif row.sequence not in sequences:
                    fresh[row.sequence] = self._cache.new_sequence()
        except SwarmError:
            for sequence in fresh.values():
                self._cache.release(sequence)
            raise
        for number, sequence in fresh.items():
            self.release_one(work.owner, number)
            sequences[number] = sequence
        outbox.place(step.step, step.rows)
        work.is_placed = True
        for row in step.rows:
            if row.length == 0 or len(step.rows) > 1:
                self._cache.prepare(sequences[row.sequence], row.position, 0)


def _find(sequences: dict[int, PageTable], number: int) -> PageTable:
    if number not in sequences:
        raise SessionLost(f"sequence {number} is not held here")
    return sequences[number]
