"""A stream as its user holds it: token ids, as they are chosen, on whatever event loop the user runs."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable

from swarm.client.explain import Explanation
from swarm.client.streaming.likelihood import Likelihood
from swarm.client.streaming.mailbox import Mailbox, tell
from swarm.client.streaming.trail import Trail, Way

Start = Callable[[Mailbox], Callable[[], None]]
"""Begins to fill a mailbox; what it returns ends that, from any thread, without waiting."""


class TokenStream(AsyncIterator[int]):
    """The token ids of one text; made by `SwarmForCausalLM.stream`, read with `async for`.

    It begins when the first token is awaited. Leaving the loop ends it: its session is closed on all hops as soon
    as nobody holds the stream any more, and at once by `aclose`, or when the waiting task is cancelled.

    Attributes:
        end_tokens: A text whose last token is none of these was cut off by its length, or by criteria of its own.
        likelihood: Of the token given last; None unless `num_logprobs` was asked for.
    """

    def __init__(
        self, start: Start, trail: Trail, explain: Callable[[Way], Explanation], *, end_tokens: frozenset[int]
    ) -> None:
        self.end_tokens = end_tokens
        self.likelihood: Likelihood | None = None
        self._start: Start | None = start
        self._trail = trail
        self._explain = explain
        self._mailbox: Mailbox | None = None
        self._stop: weakref.finalize[[], TokenStream] | None = None
        self._is_over = False

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> int:
        if self._is_over:
            raise StopAsyncIteration
        mailbox = self._mailbox or self._begin()
        mailbox.require_no_reader()
        try:
            given = await mailbox.take()
        except BaseException:  # the stream's own fault, or the reader was cancelled
            self._end()
            raise
        if given is None:
            self._is_over = True
            if self._stop is not None:
                self._stop.detach()  # it has ended by itself
            raise StopAsyncIteration
        token, self.likelihood = given
        return token

    async def aclose(self) -> None:
        """End the stream now; it gives no more tokens, and whoever awaits one learns that. Idempotent."""
        self._end()
        if self._mailbox is not None:
            tell(self._mailbox)

    def explain(self) -> Explanation:
        """Return where the time of this stream's decode steps went, hop by hop; also after its end, from any thread.

        There are no hops before its session is open. It may take a look into the directory: not to be called where
        nothing may wait.
        """
        return self._explain(self._trail.way())

    @property
    def num_failovers(self) -> int:
        """How often hops were replaced so far: all that can be told without looking into the directory."""
        return self._trail.way().num_failovers

    def _begin(self) -> Mailbox:
        start, self._start = self._start, None  # it holds the prompt, and whoever explains may hold us for long
        assert start is not None
        self._mailbox = mailbox = Mailbox(asyncio.get_running_loop())
        self._stop = weakref.finalize(self, start(mailbox))
        return mailbox

    def _end(self) -> None:
        self._is_over = True
        if self._stop is not None:
            self._stop()
