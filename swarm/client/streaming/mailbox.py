"""Where a stream's tokens wait for whoever reads them; all of it happens on the reader's own loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from swarm.client.streaming.likelihood import Likelihood

Given = tuple[int, Likelihood | None]
"""A token, and how likely it was, if that was asked."""


class Mailbox:
    """The tokens of one stream that nobody has read yet. They are never more than the stream's new tokens.

    Attributes:
        loop: The reader's.
    """

    __slots__ = ("_end", "_is_over", "_tokens", "_waiter", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._tokens: deque[Given] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._is_over = False
        self._end: BaseException | None = None

    def put(self, token: int, likelihood: Likelihood | None = None) -> None:
        """Add a token."""
        self._tokens.append((token, likelihood))
        self._wake()

    def finish(self, error: BaseException | None = None) -> None:
        """No more tokens will come; `error` is what the reader is told behind the last one. The first call counts."""
        if not self._is_over:
            self._is_over, self._end = True, error
            self._wake()

    async def take(self) -> Given | None:
        """Return the next token, None at the end; or raise what the stream ended with, once."""
        while not self._tokens:
            if self._is_over:
                error, self._end = self._end, None
                if error is not None:
                    raise error
                return None
            self.require_no_reader()
            self._waiter = self.loop.create_future()
            await self._waiter
        return self._tokens.popleft()

    def require_no_reader(self) -> None:
        """Raise RuntimeError if somebody waits for a token, as an asynchronous generator does."""
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("this stream is being read already")

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Letter(NamedTuple):
    """A token for a mailbox, whether it is the last, and how likely it was, if that was asked."""

    mailbox: Mailbox
    token: int
    is_last: bool
    likelihood: Likelihood | None = None


def deliver(letters: Iterable[Letter]) -> None:
    """Put tokens into mailboxes from any thread: each loop is woken once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Letter]] = {}
    for letter in letters:
        by_loop.setdefault(letter.mailbox.loop, []).append(letter)
    for loop, own in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: its readers are gone
            loop.call_soon_threadsafe(_put_all, own)


def tell(mailbox: Mailbox, error: BaseException | None = None) -> None:
    """End a stream from any thread."""
    with suppress(RuntimeError):  # as above
        mailbox.loop.call_soon_threadsafe(mailbox.finish, error)


def _put_all(letters: Iterable[Letter]) -> None:
    for mailbox, token, is_last, likelihood in letters:
        mailbox.put(token, likelihood)
        if is_last:
            mailbox.finish()
