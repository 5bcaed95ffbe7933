"""Running a generation, on the bridge's loop: sessions are opened, closed, and opened again when a hop is busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from swarm.client.bridge import bridge
from swarm.client.config import ClientConfig
from swarm.client.mending import Mender
from swarm.client.opening import Model, Wanted
from swarm.client.refusals import jittered
from swarm.client.session import Session
from swarm.client.splicing import Pending
from swarm.client.streaming.decoder import Decoder
from swarm.client.streaming.generation import Attempt, Generation
from swarm.client.streaming.mailbox import tell
from swarm.errors import BadResult, Busy, HopTimeout, SwarmError
from swarm.types import Span


class Opener(Protocol):
    """What a generation needs of a `Connection`."""

    config: ClientConfig

    async def open_session(self, model: Model, span: Span, wanted: tuple[Wanted, ...] = ()) -> Session:
        """See `Connection`."""
        ...

    def forget(self, session: Session) -> None:
        """See `Connection`."""
        ...

    @property
    def mender(self) -> Mender:
        """See `Connection`."""
        ...


class Follower(Protocol):
    """Who wants to know where a generation's way leads; called on the loop, must not block."""

    def opened(self, session: Session) -> None:
        """A session was opened."""
        ...

    def closed(self) -> None:
        """It was closed."""
        ...


def start_generation(
    generation: Generation,
    decoder: Decoder,
    opener: Opener,
    model: Model,
    span: Span,
    follower: Follower,
) -> Callable[[], None]:
    """Run a generation on the bridge's loop; see `run_generation`. What is returned ends it, from any thread."""

    async def run() -> None:
        try:
            await run_generation(generation, decoder, opener, model, span, follower)
        except Exception as error:  # the reader's to see; a text that ends by itself says so with its last token
            tell(generation.mailbox, error)

    bound = bridge()
    future = bound.start(run())
    return lambda: bound.post(future.cancel)


async def run_generation(
    generation: Generation,
    decoder: Decoder,
    opener: Opener,
    model: Model,
    span: Span,
    follower: Follower,
) -> None:
    """Bring a text to its end.

    Hops that fail are replaced, and the session goes on. A hop that becomes busy in the middle is waited for: the
    session is closed, so that its pages are free on all hops, and another one begins with all tokens so far.

    Raises:
        Busy: Hops were busy for `Timeouts.busy` seconds without a token.
        BlocksMissing: Blocks were lost and nobody serves them.
        SwarmError: Anything else that a session fails with, or does not open with.

    Cancelled: the session is closed on all hops.
    """
    limit = opener.config.timeouts.busy
    deadline = time.monotonic() + limit
    while True:
        session = await opener.open_session(model, span, generation.wanted())
        follower.opened(session)
        num_results = session.num_results
        try:
            error = await _run_session(generation, decoder, opener, session)
        finally:
            opener.forget(session)
            follower.closed()
        if error is None:
            return
        if session.num_results > num_results:
            deadline = time.monotonic() + limit
        if time.monotonic() + error.retry_after > deadline:
            raise error
        await asyncio.sleep(jittered(error.retry_after))


async def _run_session(generation: Generation, decoder: Decoder, opener: Opener, session: Session) -> Busy | None:
    """Go on with a text in one session until its end, or until a hop is busy, which is returned."""
    while True:
        attempt = Attempt(generation, session, decoder.arrived, decoder.begin)
        try:
            decoder.begin(attempt)
            error = await _wait_ended(attempt, opener.config.timeouts.step)
        finally:
            attempt.is_ended = True
        if error is None or generation.is_over:
            return None
        if isinstance(error, Busy):
            return error
        if not isinstance(error, SwarmError):
            raise error
        await decoder.let_go(attempt)
        if isinstance(error, BadResult) and not session.wants_mending:
            session.lose(session.legs[-1], error)
        await opener.mender.mend(session, error, Pending())


async def _wait_ended(attempt: Attempt, timeout: float) -> Exception | None:
    """Wait for the attempt's end; one look per timeout, for a token must not cost a timer."""
    while True:
        rest = attempt.progress_at + timeout - time.monotonic()
        if rest <= 0:
            return HopTimeout(f"no result from {attempt.session.route_text()} within {timeout:.0f} s")
        done, _ = await asyncio.wait((attempt.ended,), timeout=rest)
        if done:
            return attempt.ended.result()
