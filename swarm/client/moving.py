"""Moving running sessions to routes that have become much better: servers came, or got busy."""

from __future__ import annotations

import time
from collections.abc import Iterable

from swarm.client.routes import Routes
from swarm.client.session import Session
from swarm.errors import SwarmError
from swarm.log import get_logger
from swarm.planning import advise, worth_moving
from swarm.types import Hop

logger = get_logger(__name__)

MOVE_INTERVAL = 10.0
"""Seconds between looks at one session, and from its opening to the first."""


class Mover:
    """Looks at sessions from time to time; lives on the bridge's loop."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._looked: dict[bytes, tuple[float, int]] = {}  # when, and results until then

    async def look(self, sessions: Iterable[Session]) -> None:
        """Ask the hops of sessions to be replaced where others are much better, and it pays."""
        now, looked = time.monotonic(), dict[bytes, tuple[float, int]]()
        for session in tuple(sessions):
            last, results = self._looked.get(session.session_id, (now, 0))
            if now - last >= MOVE_INTERVAL:
                if session.num_results > results and not session.wants_mending:
                    await self._look_at(session)
                last, results = now, session.num_results
            looked[session.session_id] = (last, results)
        self._looked = looked

    async def _look_at(self, session: Session) -> None:
        try:
            agreement = await self._routes.agreement(session.model)
            view = self._routes.sample(agreement.view, session.span)
            costs = self._routes.costs(view)
            advice = advise(session.hops, view, costs, excluded=self._routes.bans.now(time.monotonic()))
        except (SwarmError, KeyError) as error:  # no view, or a hop's record is not in it: no time to move
            logger.debug("session %s: %s", session.session_id[:4].hex(), error)
            return
        best = tuple(part.hop for part in advice.best.hops) if advice.best is not None else session.hops
        kept = set(session.hops) & set(best)
        if best == session.hops or {hop.peer for hop in _without(best, kept)} & {hop.peer for hop in session.hops}:
            return  # a server has one part of a session at a time: it cannot have another before it lets this one go
        if not all(hop.peer in costs.to_client for hop in best):
            return  # who was never measured may seem nearer than he is
        held = sum(sent.tokens for sent in session.steps.outbox.held_before(()))
        # What lasts has lasted half its time, one may expect.
        is_worth = worth_moving(session.hops, best, view, costs, tokens_held=held, tokens_expected=session.num_results)
        if is_worth:
            session.ask_to_leave(leg for leg in session.legs if leg.hop not in kept)


def _without(hops: tuple[Hop, ...], kept: set[Hop]) -> list[Hop]:
    return [hop for hop in hops if hop not in kept]
