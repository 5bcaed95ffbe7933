"""Running a generation, on the bridge's loop: sessions are opened, closed, and opened again when a hop is busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from swarm.client.bridge import bridge
from swarm.client.config import ClientConfig
from swarm.client.opening import Model, Wanted
from swarm.client.refusals import jittered
from swarm.client.session import Session
from swarm.client.streaming.decoder import Decoder
from swarm.client.streaming.generation import Attempt, Generation
from swarm.client.streaming.mailbox import tell
from swarm.errors import Busy, HopTimeout
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


def start_generation(
    generation: Generation,
    decoder: Decoder,
    opener: Opener,
    model: Model,
    span: Span,
    on_open: Callable[[Session], None],
) -> Callable[[], None]:
    """Run a generation on the bridge's loop; see `run_generation`. What is returned ends it, from any thread."""

    async def run() -> None:
        try:
            await run_generation(generation, decoder, opener, model, span, on_open)
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
    on_open: Callable[[Session], None],
) -> None:
    """Bring a text to its end.

    A hop that becomes busy in the middle is waited for: the session is closed, so that its pages are free on all
    hops, and another one begins with all tokens so far.

    Raises:
        Busy: Hops were busy for `Timeouts.busy` seconds without a token.
        SwarmError: Anything else that a session fails with, or does not open with.

    Cancelled: the session is closed on all hops.
    """
    limit = opener.config.timeouts.busy
    deadline = time.monotonic() + limit
    while True:
        hashes = generation.wanted()
        session = await opener.open_session(model, span, (Wanted(0, hashes),) if hashes else ())
        on_open(session)
        attempt = Attempt(generation, session, decoder.arrived, decoder.begin)
        try:
            decoder.begin(attempt)
            error = await _wait_ended(attempt, opener.config.timeouts.step)
        finally:
            attempt.is_ended = True
            opener.forget(session)
        if error is None or generation.is_over:
            return
        if attempt.num_tokens:
            deadline = time.monotonic() + limit
        if not isinstance(error, Busy) or time.monotonic() + error.retry_after > deadline:
            raise error
        await asyncio.sleep(jittered(error.retry_after))


async def _wait_ended(attempt: Attempt, timeout: float) -> Exception | None:
    """Wait for the attempt's end; one look per timeout, for a token must not cost a timer."""
    while True:
        rest = attempt.progress_at + timeout - time.monotonic()
        if rest <= 0:
            return HopTimeout(f"no result from {attempt.session.route_text()} within {timeout:.0f} s")
        done, _ = await asyncio.wait((attempt.ended,), timeout=rest)
        if done:
            return attempt.ended.result()
