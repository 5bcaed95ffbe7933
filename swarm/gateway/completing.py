"""Completing a request: its texts are written at once, each in its turn, and handed on piece by piece."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from swarm.client import TokenStream
from swarm.gateway.admission import Admission, Party
from swarm.gateway.answering.shapes import Usage
from swarm.gateway.answering.streams import Beginning
from swarm.gateway.answering.writing import Piece, Writer
from swarm.gateway.asking import Asked
from swarm.gateway.limits import Limits
from swarm.gateway.metrics import Metrics
from swarm.gateway.recent import Answer

Put = Callable[[int, Piece], Awaitable[None]]
"""Takes the next piece of one text."""


@dataclass(frozen=True, slots=True)
class House:
    """What all requests share."""

    limits: Limits
    admission: Admission
    metrics: Metrics


class Completing:
    """One request that was let in.

    Attributes:
        beginnings: Its prompts.
    """

    def __init__(
        self, house: House, party: Party, asked: Asked, answer: Answer, beginnings: Sequence[Beginning], began: float
    ) -> None:
        self.beginnings = tuple(beginnings)
        self._house = house
        self._party = party
        self._asked = asked
        self._answer = answer
        self._began = began
        # The first text of a prompt is prefilled; when its first token is there the servers hold the prompt's pages,
        # and its other texts begin with them.
        self._has_begun = [asyncio.Event() for _ in beginnings]

    async def write(self, put: Put) -> None:
        """Write all texts; `put` gets their pieces.

        Raises:
            SwarmError: What ended one of them, which ends the others; maybe in an ExceptionGroup.

        Cancelled: all streams are closed, and with them the sessions on all hops.
        """
        streams = self._answer.streams
        try:
            if len(streams) == 1:
                await self._write_one(0, streams[0], put)
                return
            async with asyncio.TaskGroup() as tasks:
                for index, stream in enumerate(streams):
                    tasks.create_task(self._write_one(index, stream, put))
        except Exception:
            if not self._answer.num_tokens:  # who hangs up is not meant: the prompt may have been computed for him
                self._house.limits.give_back(self._answer.key, self.usage().prompt)
            raise
        finally:
            self._end()

    def usage(self) -> Usage:
        """Return the tokens so far."""
        return Usage(sum(len(each.tokens) for each in self.beginnings), self._answer.num_tokens)

    def beginning(self, index: int) -> Beginning:
        """Return the prompt of a text."""
        return self.beginnings[index // self._asked.num_texts]

    async def _write_one(self, index: int, stream: TokenStream, put: Put) -> None:
        prompt, which = divmod(index, self._asked.num_texts)
        has_begun = self._has_begun[prompt]
        try:
            if which:
                await has_begun.wait()
            async with self._party.turn():
                await self._read(index, stream, put, has_begun)
        finally:
            await stream.aclose()
            has_begun.set()

    async def _read(self, index: int, stream: TokenStream, put: Put, has_begun: asyncio.Event) -> None:
        served, metrics = self._answer.served, self._house.metrics
        writer = Writer(stream, served.alphabet, self._asked.stop)
        between = metrics.between_tokens.labels(served.name)
        last = None
        async with aclosing(writer.pieces()) as pieces:
            async for piece in pieces:
                now = time.monotonic()
                if last is None:
                    has_begun.set()
                    metrics.first_token.labels(served.name).observe(now - self._began)
                else:
                    between.observe(now - last)
                last = now
                self._answer.count(writer.num_new())
                await put(index, piece)

    def _end(self) -> None:
        answer, metrics = self._answer, self._house.metrics
        answer.end()
        self._house.limits.count_tokens(answer.key, answer.num_tokens)
        metrics.answer_tokens.labels(answer.served.name).inc(answer.num_tokens)
        metrics.failovers.labels(answer.served.name).inc(answer.num_failovers)
