"""One step of a session, cut into chunks: tried again from the first chunk without an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import torch
from torch import Tensor

from swarm.client.chunks import Piece, marks_of, split_rows
from swarm.client.session import Session
from swarm.client.splicing import Pending
from swarm.client.steps import MAX_AHEAD, Waiting
from swarm.errors import HopTimeout, SwarmError
from swarm.wire import Result, Row
from swarm.wire.codecs import encode_tensor


class StepRun:
    """Runs rows' tokens through all hops.

    Args:
        session: Open; nothing else of it is under way.
        rows: What each sequence does; see `swarm.wire.Row`.
        hidden: (T, D) the rows' tokens one after another.
        hashes: For each row those of all its pages that are full then, so that they are found again; see
            `swarm.client.prefixes`.
    """

    def __init__(
        self, session: Session, rows: Sequence[Row], hidden: Tensor, hashes: Sequence[Sequence[bytes]] | None = None
    ) -> None:
        self._session = session
        self._chunks = split_rows(rows, session.config.chunk_tokens)
        self._hidden = hidden
        self._hashes = hashes
        self._numbers = [0] * len(self._chunks)
        self._results: list[Tensor] = []

    @property
    def pending(self) -> Pending:
        """The first chunk that is not answered."""
        index = len(self._results)
        return Pending(tuple(piece.row for piece in self._chunks[index]), self._numbers[index])

    async def go_on(self) -> Tensor:
        """Send what is not answered, and wait for the answers.

        Returns:
            (sum of `keep`, D), the kept tokens row by row, in the codec's dtype.

        Raises:
            HopTimeout, HopLost, HopFailed, Busy, BadResult: See `swarm.errors`; the hops may or may
                not hold the step. It may be gone on with, or the next step begin at the same position.

        Cancelled: as HopTimeout; hops that have not run the step yet will not.
        """
        session = self._session
        if session.broken is not None:
            raise session.broken
        sent: list[_Answer] = []
        try:
            for index in range(len(self._results), len(self._chunks)):
                if len(sent) >= MAX_AHEAD:
                    await self._take(sent)
                sent.append(self._send(index))
            while len(self._results) < len(self._chunks):
                await self._take(sent)
        except BaseException:
            session.give_up_steps()
            for answer in sent:
                if answer.future.done() and not answer.future.cancelled():
                    answer.future.exception()  # seen
            raise
        return _by_row(self._chunks, self._results)

    def _send(self, index: int) -> _Answer:
        chunk, session = self._chunks[index], self._session
        parts = [self._hidden[piece.start : piece.end] for piece in chunk]
        rows = tuple(piece.row for piece in chunk)
        marks = b""
        if self._hashes is not None and session.takes_marks:
            marks = marks_of(rows, [self._hashes[piece.index] for piece in chunk])
        answer = _Answer()
        message, waiting = session.steps.make(rows, answer, marks=marks, again=self._numbers[index])
        self._numbers[index] = waiting.number
        waiting.body = encode_tensor(parts[0] if len(parts) == 1 else torch.cat(parts), session.steps.codec)
        session.first_channel.send(message, waiting.body)
        return answer

    async def _take(self, sent: list[_Answer]) -> None:
        """Wait for the next answer."""
        session, answer = self._session, sent.pop(0)
        timeout = session.config.timeouts.step
        try:
            waiting, result, body = await asyncio.wait_for(answer.future, timeout)
        except TimeoutError:
            raise HopTimeout(f"no result from {session.route_text()} within {timeout:.0f} s") from None
        try:
            self._results.append(session.steps.check(result, body, waiting))
        except SwarmError as error:
            session.lose(session.legs[-1], error)
            raise


class _Answer:
    """Takes a chunk's result for a coroutine that awaits it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.future: asyncio.Future[tuple[Waiting, Result, bytearray]] = loop.create_future()

    def took(self, waiting: Waiting, result: Result, body: bytearray) -> None:
        if not self.future.done():
            self.future.set_result((waiting, result, body))

    def failed(self, error: SwarmError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def _by_row(chunks: list[list[Piece]], results: list[Tensor]) -> Tensor:
    """Put the kept tokens of all chunks back in the order of the rows."""
    if len(chunks) == 1:
        return results[0]
    found: dict[int, list[Tensor]] = {}
    for chunk, result in zip(chunks, results, strict=True):
        parts = torch.split(result, [piece.row.keep for piece in chunk])
        for piece, part in zip(chunk, parts, strict=True):
            found.setdefault(piece.index, []).append(part)
    return torch.cat([part for index in sorted(found) for part in found[index]])
