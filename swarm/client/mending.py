"""Mending a session: hops that died, froze, failed or leave are replaced, and the new ones brought up to date.

Only the lost blocks are routed again; the new hops may have other boundaries. The hop before them sends again what it
has sent for the session (its outbox), in chunks; where the first hop was lost, or the hop before does not hold it all
any more, the client does. Then the step is tried again. If these blocks have no server left but such as have a part in
the session already, the whole route is replaced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from swarm.client.config import ClientConfig
from swarm.client.legs import Leg
from swarm.client.opening import HopUnusable
from swarm.client.refusals import Refusals
from swarm.client.routes import OLDEST, POLL_INTERVAL, Refused, Routes, Stretch
from swarm.client.session import Session
from swarm.client.splicing import Pending, splice
from swarm.errors import (
    BadResult,
    Busy,
    HopFailed,
    HopLeaving,
    HopLost,
    HopRefused,
    HopTimeout,
    PeerUnreachable,
    RemoteError,
    SessionLost,
    SwarmError,
)
from swarm.log import get_logger
from swarm.types import Hop, PeerId, Span, View

logger = get_logger(__name__)

MENDABLE = (HopLost, HopTimeout, HopFailed, HopRefused, HopLeaving, BadResult, PeerUnreachable, SessionLost)
"""What another hop may do better. Not Busy: pages become free."""

INNOCENT = (SessionLost, HopRefused, HopLeaving, Busy)
"""What a server may say and be asked again by other sessions at once."""

FORGIVEN = (SessionLost, HopLost, HopTimeout, PeerUnreachable)
"""Faults after which a server may take the session again: it has forgotten it, or was away."""

PROBE_TIMEOUT = 1.0
"""Seconds for all hops to answer a Ping when a step fails and nobody is known to be lost."""

MAX_LINK_FAULTS = 2
"""So often the link between two living hops may fail before the second of them is replaced."""


class Dial(Protocol):
    """Makes legs of hops."""

    async def __call__(self, hops: Sequence[Hop], view: View) -> list[Leg]:
        """Dial all of them; raises HopUnusable."""
        ...


@dataclass(frozen=True, slots=True)
class _Need:
    """What one mending is about, and what it has learnt."""

    error: SwarmError
    pending: Pending
    began: float
    refusals: Refusals
    suspects: set[PeerId] = field(default_factory=set)


class Mender:
    """Replaces hops of sessions; lives on the bridge's loop."""

    def __init__(self, routes: Routes, dial: Dial, config: ClientConfig) -> None:
        self._routes = routes
        self._dial = dial
        self._timeouts = config.timeouts

    async def mend(self, session: Session, error: SwarmError, pending: Pending) -> None:
        """Make a session usable again after a step failed; then the step can be tried again.

        Args:
            session: Nothing of it is under way, and nobody else uses it until this returns.
            error: What the step failed with.
            pending: The step that is to be tried again.

        Raises:
            BlocksMissing: Nobody else serves the lost blocks, and nobody came within `Timeouts.coverage`; or who serves
                them does not take the session, for too long.
            SwarmError: `error`, if nothing can be done about it, or nothing has helped for too long.

        Cancelled: some hops may be replaced; the session can be mended again, or closed.
        """
        session.give_up_steps()
        if not isinstance(error, MENDABLE) or not session.tries.again(self._timeouts.mend):
            raise error
        await self._find_lost(session, error)
        now, patience = time.monotonic(), self._timeouts.coverage
        need = _Need(error, pending, now, Refusals(now + patience, patience))
        while session.is_usable and session.wants_mending:
            await self._replace(session, need)
        if not session.is_usable:
            raise error

    def lose(self, session: Session, leg: Leg, error: SwarmError) -> None:
        """Note that a hop cannot be used any more, by nobody of ours for a while."""
        self.ban(leg.peer, error)
        session.lose(leg, error)

    async def _find_lost(self, session: Session, error: SwarmError) -> None:
        """Learn which hops must be replaced: those known to be lost, else those that do not answer.

        Raises:
            SwarmError: `error`, if it is no hop's fault.
        """
        if session.wants_mending:
            return
        await self._probe(session)
        for leg, behind in pairwise(session.legs):
            if leg.link_faults >= MAX_LINK_FAULTS:
                leg.link_faults = 0
                self.lose(session, behind, PeerUnreachable(f"hop {leg.hop} cannot reach hop {behind.hop}: {error}"))
        if not session.wants_mending and isinstance(error, HopTimeout):
            for leg in session.legs:  # all live, and one of them does not do its work: nobody knows which
                self.lose(session, leg, error)
        if not session.wants_mending and not isinstance(error, HopLost | PeerUnreachable):
            raise error

    async def _probe(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        for leg in session.legs:
            leg.channel.ping()
        while silent := [leg for leg in session.legs if leg.fault is None and leg.channel.heard_at < asked_at]:
            is_late = loop.time() > asked_at + PROBE_TIMEOUT
            for leg in silent:
                if not leg.channel.is_open:
                    self.lose(session, leg, HopLost(f"lost hop {leg.hop}: {leg.channel.reason or 'it hung up'}"))
                elif is_late:
                    self.lose(session, leg, HopTimeout(f"hop {leg.hop} does not answer"))
            await asyncio.sleep(0.005)

    async def _replace(self, session: Session, need: _Need) -> None:
        """Put other hops in the place of the first legs that want it, or find that others must be replaced as well."""
        start, end = _first_group(session.legs)
        lost = session.legs[start:end]
        for leg in lost:
            if leg.fault is not None:
                self.ban(leg.peer, leg.fault)
        age = OLDEST  # no time to look, as long as somebody is known
        while session.is_usable and _first_group(session.legs) == (start, end):
            agreement = await self._routes.agreement(session.model, age=age)
            refused = need.refusals.now(time.monotonic())
            chosen = self._choose(session, start, end, agreement.view, refused)
            if chosen is not None:
                if not await self._take_over(session, *chosen, agreement.view, need):
                    waited, refused = time.monotonic() - need.began, need.refusals.now(time.monotonic())
                    raise self._routes.missing(session.model, _span(lost), agreement, refused, waited) from need.error
            elif age:
                age = 0.0
            elif self._stays(lost):
                return
            elif any(isinstance(leg.fault, RemoteError) for leg in lost):
                raise need.error  # they refuse or fail: waiting for others makes no sense
            elif (waited := time.monotonic() - need.began) > self._timeouts.coverage:
                raise self._routes.missing(session.model, _span(lost), agreement, refused, waited) from need.error
            else:
                await asyncio.sleep(POLL_INTERVAL)

    async def _take_over(
        self, session: Session, start: int, end: int, hops: tuple[Hop, ...], view: View, need: _Need
    ) -> bool:
        """Splice hops in, or note why they are of no use; whether the session goes on, or others may be tried."""
        try:
            await splice(session, start, end, await self._dial(hops, view), need.pending)
        except HopUnusable as unusable:
            logger.info("hop %s does not take the session: %s", unusable.peer, unusable.error)
            if not isinstance(unusable.error, HopLost) or unusable.peer in need.suspects:
                self.ban(unusable.peer, unusable.error)
                need.refusals.add(unusable.peer, unusable.error, time.monotonic())
            need.suspects.add(unusable.peer)  # a link may have been lost: late news of another one sound the same
            return session.tries.again(self._timeouts.mend)
        except SwarmError as lost:  # another hop of the route was lost meanwhile
            if not session.tries.again(self._timeouts.mend):
                raise need.error from lost
        else:
            logger.info("session %s goes on over %s", session.session_id[:4].hex(), " -> ".join(map(str, hops)))
        return True

    def _choose(
        self, session: Session, start: int, end: int, view: View, refused: Refused
    ) -> tuple[int, int, tuple[Hop, ...]] | None:
        """Return hops, and the legs whose place they are to take: those lost, else all."""
        legs = session.legs
        # Who lost the session may have it again, and who was not there, once his ban allows it: he may be back.
        lost = {leg.peer for leg in legs if leg.wants_replacement and not isinstance(leg.fault, FORGIVEN)}
        stretch = Stretch(
            span=_span(legs[start:end]),
            before=legs[start - 1].peer if start else None,
            after=legs[end].peer if end < len(legs) else None,
            numerics=legs[start].numerics,
            on_route=lost | {leg.peer for leg in (*legs[:start], *legs[end:])},
        )
        if (hops := self._routes.find(view, stretch, refused)) is not None:
            return start, end, hops
        whole = Stretch(span=_span(legs), numerics=legs[start].numerics, on_route=lost)
        hops = self._routes.find(view, whole, refused)
        return None if hops is None else (0, len(legs), hops)

    def _stays(self, legs: Sequence[Leg]) -> bool:
        """Let hops that only want to leave serve on, for nobody can take their place; whether all of them can."""
        for leg in legs:
            leg.is_leaving = False
        return all(leg.fault is None for leg in legs)

    def ban(self, peer: PeerId, error: SwarmError) -> None:
        """Leave a peer alone for a while, unless what it did is no reason to."""
        if not isinstance(error, INNOCENT):
            self._routes.bans.add(peer, error, time.monotonic())


def _first_group(legs: Sequence[Leg]) -> tuple[int, int]:
    """Return the first legs, [start, end), all of which want to be replaced; an empty range if none does."""
    start = next((index for index, leg in enumerate(legs) if leg.wants_replacement), len(legs))
    end = start
    while end < len(legs) and legs[end].wants_replacement:
        end += 1
    return start, end


def _span(legs: Sequence[Leg]) -> Span:
    return Span(legs[0].hop.start, legs[-1].hop.end)
