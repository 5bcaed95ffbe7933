"""What a client does beside its sessions' steps: noticing the silent, knowing others, moving to better routes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence

from swarm.client.mending import Mender
from swarm.client.moving import Mover
from swarm.client.opening import Model
from swarm.client.routes import Routes
from swarm.client.scouting import FIRST_WAIT, MAX_SCOUTED, SCOUT_INTERVAL, Scout
from swarm.client.session import Session
from swarm.client.silence import LOOK_INTERVAL, Silence
from swarm.errors import HopTimeout, SwarmError
from swarm.log import get_logger
from swarm.types import Hop, Span, View

logger = get_logger(__name__)


class Upkeep:
    """Looks after all sessions of a connection; lives on the bridge's loop.

    Args:
        sessions: All that are open; changes beneath us.
    """

    def __init__(self, sessions: Mapping[bytes, Session], routes: Routes, mender: Mender, scout: Scout) -> None:
        self._sessions = sessions
        self._routes = routes
        self._mender = mender
        self._scout = scout
        self._scouting: asyncio.Task[None] | None = None
        self._scouted_at = -math.inf

    async def run(self) -> None:
        """Look from time to time, for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._notice_the_silent())
                tasks.create_task(self._seek_better())
        finally:
            if self._scouting is not None:
                self._scouting.cancel()

    async def _notice_the_silent(self) -> None:
        silence = Silence()
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            for session, leg in silence.look(tuple(self._sessions.values())):
                self._mender.lose(session, leg, HopTimeout(f"hop {leg.hop} is silent"))

    async def _seek_better(self) -> None:
        """Beside the other, for a look into the directory may take seconds."""
        mover = Mover(self._routes)
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            try:
                await mover.look(self._sessions.values())
            except Exception as error:  # a periodic task over strangers' records: the next look may do better
                logger.warning("looking for better routes: %s: %s", type(error).__name__, error)
            if self._sessions and time.monotonic() - self._scouted_at > SCOUT_INTERVAL:
                one = next(iter(self._sessions.values()))
                self._scout_soon(one.model, one.span)

    async def scout_first(self, model: Model, span: Span) -> None:
        """Before a connection's first route: take a moment to measure whom it may go through."""
        if self._scouted_at == -math.inf:
            await asyncio.wait((self._scout_soon(model, span),), timeout=FIRST_WAIT)

    async def measure(self, hops: Sequence[Hop], view: View) -> bool:
        """Before a route through a large swarm is taken: measure the hops that were not; whether there were any."""
        if len(view.records) <= MAX_SCOUTED:
            return False  # all that matter are known, or do not answer
        try:
            async with asyncio.timeout(FIRST_WAIT):
                return await self._scout.measure(hops, view)
        except TimeoutError:
            return False

    def _scout_soon(self, model: Model, span: Span) -> asyncio.Task[None]:
        if self._scouting is None:
            self._scouted_at = time.monotonic()
            self._scouting = asyncio.create_task(self._look_around(model, span))
        return self._scouting

    async def _look_around(self, model: Model, span: Span) -> None:
        try:
            agreement = await self._routes.agreement(model)
            await self._scout.look(self._routes.sample(agreement.view, span), span)
        except SwarmError as error:
            logger.debug("no scouting: %s", error)
        finally:
            self._scouting = None
