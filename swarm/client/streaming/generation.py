"""A generation: one stream's text, and the attempt, one session long, at going on with it.

Who touches what: the text and an attempt's position belong to the compute thread while the attempt lives; results
and errors arrive on the bridge's loop, which also learns there how an attempt ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from torch import Tensor

from swarm.client.opening import Wanted, bodies_of
from swarm.client.prefixes import KnownPrefixes, extend_hashes, filled_pages
from swarm.client.session import Session
from swarm.client.steps import MAX_AHEAD, Waiting
from swarm.client.streaming.choosing import Text, as_exception
from swarm.client.streaming.mailbox import Mailbox
from swarm.errors import SwarmError
from swarm.wire import Result, Row, Step


class Generation:
    """One stream.

    Attributes:
        text: The prompt and the new tokens, as processors see them.
        tokens: The same, as the model sees them: padding left out.
        mailbox: Where new tokens go.
        is_over: Whether the text has ended.
        prefixes: Where first pages are remembered; None if nothing is to be found again.
        embed: Turns tokens (T,) at positions (T,) into what the first block takes.
    """

    def __init__(
        self,
        text: Text,
        tokens: list[int],
        mailbox: Mailbox,
        prefixes: KnownPrefixes | None,
        embed: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.embed = embed
        self.text = text
        self.prefixes = prefixes
        self.tokens = tokens
        self.mailbox = mailbox
        self.is_over = False
        self._hashes: list[bytes] = []

    def add(self, token: int) -> Exception | None:
        """Go on with a chosen token; return what the user's own stopping criteria raised, if they did."""
        self.text.ids.append(token)
        try:
            self.is_over = self.text.choice.is_over(self.text)
        except BaseException as error:  # whatever it is, this stream alone is told
            return as_exception(error)
        self.tokens.append(token)
        return None

    def marks(self, position: int, length: int) -> bytes:
        """Return the hashes of the pages that these tokens fill."""
        pages = filled_pages(position, length)
        if not pages or self.prefixes is None:
            return b""
        self._hashes = extend_hashes(self._hashes, self.tokens[: position + length])
        if pages.start == 0:
            self.prefixes.add(self._hashes[0])
        return b"".join(self._hashes[pages.start : pages.stop])

    def wanted(self) -> tuple[Wanted, ...]:
        """Return what a new session may begin with."""
        hashes = b"" if self.prefixes is None else self.prefixes.wanted(self.tokens)
        return (Wanted(0, hashes, bodies_of(self.embed, self.tokens)),) if hashes else ()


class Arrival(NamedTuple):
    """A result that waits for the compute thread."""

    attempt: Attempt
    waiting: Waiting
    result: Result
    body: bytearray


class Attempt:
    """One session's part in a generation; made on the bridge's loop.

    Attributes:
        position: Tokens that the hops hold, or will once they have run what was sent.
        is_ended: Whether nothing more is to be done in it.
        sends_on_loop: Whether messages must be sent by the loop: set once and for all, for none may overtake.
        ended: What it failed with, once it is over; None at the text's end.
        progress_at: Monotonic time of the latest result.
        is_paused: Whether its prompt waits for steps under way.
    """

    def __init__(
        self,
        generation: Generation,
        session: Session,
        arrived: Callable[[Arrival], None],
        more: Callable[[Attempt], None],
    ) -> None:
        self.generation = generation
        self.session = session
        # The last token's output is wanted in any case, if it came before, too.
        self.position = min(session.steps.outbox.length(0), len(generation.tokens) - 1)
        self.is_ended = False
        self.sends_on_loop = False
        self.loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Exception | None] = self.loop.create_future()
        self.progress_at = time.monotonic()
        self.is_paused = False
        self._arrived = arrived
        self._more = more

    @property
    def num_unsent(self) -> int:
        """Tokens of the text that the hops do not hold; at least one until the text is over."""
        return len(self.generation.tokens) - self.position

    def next_step(self, max_tokens: int) -> tuple[Step, Waiting, list[int]]:
        """Make the message of the next tokens; only the last one's output comes back.

        Returns:
            The message, what waits for its answer, and its tokens.
        """
        generation, position = self.generation, self.position
        tokens = generation.tokens[position : position + max_tokens]
        length = len(tokens)
        self.position = position + length
        keep = int(self.position == len(generation.tokens))
        marks = generation.marks(position, length)  # of a chunk, far fewer than a message holds
        if not self.session.takes_marks:
            marks = b""
        message, waiting = self.session.steps.make((Row(0, 0, position, length, keep),), self, marks=marks)
        return message, waiting, tokens

    def took(self, waiting: Waiting, result: Result, body: bytearray) -> None:
        """A result came (the session calls this, on the loop)."""
        self.progress_at = time.monotonic()
        if self.is_paused and self.session.steps.num_under_way <= MAX_AHEAD // 2:
            self.is_paused = False
            self._more(self)
        if waiting.kept and not self.is_ended:
            self._arrived(Arrival(self, waiting, result, body))

    def failed(self, error: SwarmError) -> None:
        """A step failed (the session calls this, on the loop)."""
        self._end(error)

    def end(self, error: Exception | None) -> None:
        """Note, on any thread, that nothing more is to be done."""
        self.is_ended = True
        with suppress(RuntimeError):  # the bridge has ended with the process
            self.loop.call_soon_threadsafe(self._end, error)

    def _end(self, error: Exception | None) -> None:
        self.is_ended = True
        if not self.ended.done():
            self.ended.set_result(error)
