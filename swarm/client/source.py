"""Where a cache gets its session: opened when it is first needed, closed with the cache; all calls wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from swarm.client.opening import Wanted
from swarm.client.prefixes import KnownPrefixes
from swarm.client.refusals import jittered
from swarm.client.session import Session
from swarm.errors import Busy
from swarm.wire import Row

Hashes = Sequence[Sequence[bytes]]
"""For each row of a step those of all pages of its sequence that are full then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """How a source does what it does.

    Attributes:
        open_session: Opens a session over the best route; sequences begin with what is wanted, where it is held.
        run_step: Runs one step of it.
        close: Closes it without waiting; may be called from a finalizer.
        embed: Turns tokens (T,) at positions (T,) into what the first block takes; None if that is not known.
        prefixes: Where first pages are remembered; None if nothing is to be found again.
        busy: Seconds for which busy hops are waited for.
    """

    open_session: Callable[[Sequence[Wanted]], Session]
    run_step: Callable[[Session, list[Row], Tensor, Hashes | None], Tensor]
    close: Callable[[Session], None]
    embed: Callable[[Tensor, Tensor], Tensor] | None = None
    prefixes: KnownPrefixes | None = None
    busy: float = 30.0


class SessionSource:
    """A session that is not there yet, or is there, or was closed and will be another one.

    Attributes:
        ways: See `Ways`.
        session: The session in use, if there is one.
    """

    def __init__(self, ways: Ways) -> None:
        self.ways = ways
        self.session: Session | None = None

    def open(self, wanted: Sequence[Wanted]) -> dict[int, int]:
        """Open a session; return how many tokens each wanted sequence begins with."""
        self.session = self.ways.open_session(wanted)
        return self.session.held

    def step(self, rows: list[Row], hidden: Tensor, hashes: Hashes | None) -> Tensor:
        """As `Session.step`."""
        assert self.session is not None
        return self.ways.run_step(self.session, rows, hidden, hashes)

    def rest(self, busy: Busy, since: float) -> None:
        """Wait as long as a busy hop asks for.

        Args:
            busy: What it said.
            since: Monotonic time of the last progress.

        Raises:
            Busy: It would be too long since then.
        """
        if time.monotonic() + busy.retry_after > since + self.ways.busy:
            raise busy
        time.sleep(jittered(busy.retry_after))

    def close(self) -> None:
        """Close the session, if one was opened."""
        session, self.session = self.session, None
        if session is not None:
            self.ways.close(session)
