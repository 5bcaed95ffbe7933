"""A stream as its user holds it: token ids, as they are chosen, on whatever event loop the user runs."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable

from swarm.client.explain import Explanation
from swarm.client.streaming.mailbox import Mailbox, tell

Start = Callable[[Mailbox], Callable[[], None]]
"""Begins to fill a mailbox; what it returns ends that, from any thread, without waiting."""


class TokenStream(AsyncIterator[int]):
    """The token ids of one text; made by `SwarmForCausalLM.stream`, read with `async for`.

    It begins when the first token is awaited. Leaving the loop ends it: its session is closed on all hops as soon
    as nobody holds the stream any more, and at once by `aclose`, or when the waiting task is cancelled.
    """

    def __init__(self, start: Start, explain: Callable[[], Explanation]) -> None:
        self._start = start
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
            token = await mailbox.take()
        except BaseException:  # the stream's own fault, or the reader was cancelled
            self._end()
            raise
        if token is None:
            self._is_over = True
            if self._stop is not None:
                self._stop.detach()  # it has ended by itself
            raise StopAsyncIteration
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
        return self._explain()

    def _begin(self) -> Mailbox:
        self._mailbox = mailbox = Mailbox(asyncio.get_running_loop())
        self._stop = weakref.finalize(self, self._start(mailbox))
        return mailbox

    def _end(self) -> None:
        self._is_over = True
        if self._stop is not None:
            self._stop()
