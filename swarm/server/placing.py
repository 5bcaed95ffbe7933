"""Placing: drives a `Placer`, so that a server claims, serves, and leaves spans as `swarm.planning.placer` tells.

It decides nothing and holds nothing: `Hands` announce, look, drain and load. What goes wrong ends well: a claim that
cannot be checked is loaded as it is, a wish that cannot be announced is not carried out, and a span that cannot be
loaded leaves us where we were.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from enum import Enum
from typing import Protocol

from swarm.errors import SwarmError
from swarm.log import get_logger
from swarm.planning import Act, Decision, Outlook, Placer
from swarm.types import ServerRecord, ServerState, Span, View

logger = get_logger(__name__)

FAILED_PAUSE = 900.0
"""Seconds for which a server that could not load another span does not want one: what is broken here stays so."""

MAX_AHEAD = 3600.0
"""Seconds that another's clock may be ahead: whoever claims more would always be the last in turn, and so would we."""


class Freedom(Enum):
    """What `--blocks` leaves to placement."""

    FIXED = "fixed"
    """Nothing: START:END, or a span that is the whole model."""

    PLACED = "placed"
    """Where a number of blocks begins, once: nobody moves who did not say auto."""

    FREE = "free"
    """Everything: auto."""

    @classmethod
    def of(cls, blocks: str | int | Span, *, is_whole: bool) -> Freedom:
        """Return what `--blocks` gives; `is_whole` if all blocks of the model fit."""
        if isinstance(blocks, Span) or is_whole:
            return cls.FIXED
        return cls.FREE if blocks == "auto" else cls.PLACED


class Hands(Protocol):
    """What a server does for its placement."""

    @property
    def sees_others(self) -> bool:
        """Whether we have joined a swarm."""
        ...

    async def announce(self, decision: Decision) -> bool:
        """Announce a decision, and wait for a while until that is stored; whether it is."""
        ...

    async def look(self) -> View:
        """Return the servers that hold our checkpoint."""
        ...

    async def drain(self) -> None:
        """Have our sessions moved elsewhere, and wait until that is done, or has taken too long."""
        ...

    async def load(self, span: Span) -> float:
        """Give up what is served, serve `span`, and return its tokens/s through one block.

        Raises:
            SwarmError: It cannot be loaded; nothing is served.
        """
        ...


class Placing:
    """One server's placement, from its start to its end.

    Args:
        record: Ours, before a span is chosen; see `Placer`.
        hands: Who acts.
        freedom: What may be decided here.
        ttl: Seconds that records live.
    """

    def __init__(self, record: ServerRecord, hands: Hands, *, freedom: Freedom, ttl: float) -> None:
        self._placer = Placer(record, ttl=ttl)
        self._hands = hands
        self._freedom = freedom
        self._num_blocks = record.num_blocks
        self._ttl = ttl
        self._told = record.span
        self._served: Span | None = None
        self._stays_until = 0.0

    async def run(self) -> None:
        """Serve a span, and then others where that is better; returns only if there is nothing more to decide.

        Raises:
            SwarmError: Blocks cannot be loaded, and there are none to go back to.

        Cancelled: what the hands are at ends as they say.
        """
        decision = await self._start()
        while True:
            decided_at = time.time()
            is_wish = decision.act is Act.LOOK and decision.next_span is not None
            while not await self._hands.announce(decision) and is_wish:
                logger.info("the wish to move to %s is not announced yet: nobody stores it", decision.next_span)
            match decision.act:
                case Act.LOOK:
                    if self._freedom is not Freedom.FREE and decision.state is ServerState.ONLINE:
                        return
                    # The wait counts from when others can see what we announced.
                    until = max(time.time() + decision.look_at - decided_at, self._stays_until)
                    await asyncio.sleep(until - time.time())
                    decision = self._tell(decision, await self._look(decision))
                case Act.DRAIN:
                    await self._hands.drain()
                    decision = self._placer.drained(time.time())
                case Act.LOAD:
                    decision = await self._load(decision.span)

    async def _start(self) -> Decision:
        if self._freedom is Freedom.FIXED or not self._hands.sees_others:
            # Who is alone has nobody to agree with: what it chose is right until it meets others.
            return self._resume(self._told, await self._hands.load(self._told))
        try:
            outlook = await self._outlook()
        except SwarmError as error:
            logger.warning("placement does not see the others: %s", error)
            outlook = self._nobody()
        decision = self._placer.start(outlook, time.time())
        logger.info("claiming span %s: %d servers hold or claim some", decision.span, len(outlook.records))
        return decision

    async def _look(self, decision: Decision) -> Decision:
        try:
            return self._placer.look(await self._outlook(), time.time())
        except Exception as error:  # a periodic task over strangers' records: the next look may do better
            logger.warning("placement cannot look around: %s: %s", type(error).__name__, error)
        if decision.state is ServerState.JOINING:
            return self._placer.look(self._nobody(), time.time())
        return replace(decision, look_at=time.time() + self._ttl / 3)

    async def _load(self, span: Span) -> Decision:
        before = self._served
        try:
            speed = await self._hands.load(span)
        except SwarmError as error:
            if before is None:
                raise
            logger.error("span %s could not be loaded, so we go back to %s, and stay: %s", span, before, error)
            self._stays_until = time.time() + FAILED_PAUSE
            return self._resume(before, await self._hands.load(before))
        self._served = span
        return self._placer.loaded(time.time(), speed)

    def _resume(self, span: Span, speed: float) -> Decision:
        self._served = span
        now = time.time()
        return self._placer.resume(span, now, speed=speed, held_since=now)

    def _tell(self, before: Decision, after: Decision) -> Decision:
        """Log what changes; return the latter."""
        if after.state is ServerState.JOINING and after.span != before.span:
            logger.info("claiming span %s instead of %s: others were first", after.span, before.span)
        elif after.act is Act.DRAIN:
            logger.info("moving from span %s to %s", after.span, after.next_span)
        elif after.next_span is not None and before.next_span is None:
            logger.info("span %s needs us more than %s: moving there unless others do", after.next_span, after.span)
        elif before.next_span is not None and after.next_span is None:
            logger.info("staying with span %s: others are first at %s", after.span, before.next_span)
        return after

    async def _outlook(self) -> Outlook:
        return self._of(await self._hands.look())

    def _nobody(self) -> Outlook:
        return self._of(View(model="", records=(), taken_at=time.time()))

    def _of(self, view: View) -> Outlook:
        latest = view.taken_at + MAX_AHEAD
        sound = tuple(r for r in view.records if r.num_blocks == self._num_blocks and r.since <= latest)
        return Outlook.of(replace(view, records=sound), num_blocks=self._num_blocks, ttl=self._ttl)
