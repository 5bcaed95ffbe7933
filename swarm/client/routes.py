"""Which way to go: the client's view of the swarm, what it has measured itself, and who failed it lately."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from swarm.client.bans import Bans
from swarm.client.config import ClientConfig
from swarm.client.explain import advice_text
from swarm.client.legs import numerics_of
from swarm.client.opening import Model
from swarm.directory import Directory
from swarm.errors import BlocksMissing, SwarmError, SwarmUnreachable
from swarm.log import get_logger
from swarm.network import Peer
from swarm.planning import Agreement, Costs, advise, agree, find_route, format_spans, missing_spans, sample
from swarm.planning.sampling import LIMIT
from swarm.types import Hop, PeerId, Span, View

logger = get_logger(__name__)

PATIENCE = 0.2
"""Seconds that a look into the directory may take while there is an older one to go by: who searches a directory of
which a member is frozen waits for seconds."""

RECENT = 15.0
"""Seconds for which a look is gone by while a new one is taken."""

OLDEST = 60.0
"""Seconds after which a look counts for nothing: what it has seen has expired."""

POLL_INTERVAL = 0.25
"""Seconds between looks at the directory while blocks are missing."""

Refused = Mapping[PeerId, SwarmError]
"""Whom not to ask, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Blocks to be run by others than before.

    Attributes:
        span: Which.
        before: Who runs what comes before; None is the client.
        after: Who runs what comes after; None is the client.
        numerics: What decides about last bits where it ran before: preferred.
        on_route: Whoever has a part of the session already, and cannot have another.
    """

    span: Span
    before: PeerId | None = None
    after: PeerId | None = None
    numerics: str = ""
    on_route: Collection[PeerId] = ()


class Routes:
    """Finds routes; lives on the bridge's loop.

    Attributes:
        bans: Who failed us lately.
    """

    def __init__(self, directory: Directory, peer: Peer, config: ClientConfig) -> None:
        self._directory = directory
        self._peer = peer
        self._config = config
        self._views: dict[str, tuple[float, View]] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self.bans = Bans()

    async def agreement(self, model: Model, *, age: float | None = None) -> Agreement:
        """Return who serves this very checkpoint, as seen at most `age` seconds ago (None: `view_age`).

        A new look that takes long goes on in the background, while the one before counts.
        """
        oldest = self._config.view_age if age is None else age
        known, now = self._views.get(model.name), time.monotonic()
        if known is None or now - known[0] > oldest:
            looking = self._looking.get(model.name)
            if looking is None:
                looking = self._looking[model.name] = asyncio.create_task(self._look(model.name))
            seen = math.inf if known is None else now - known[0]
            if age == 0.0 or seen > RECENT:
                await asyncio.wait((looking,), timeout=PATIENCE if seen < OLDEST else None)
            if seen >= OLDEST:
                looking.result()  # raises what went wrong
        return agree(self._views[model.name][1], model.fingerprint)

    async def _look(self, name: str) -> None:
        try:
            view = await self._directory.view(name)
            self._views[name] = (time.monotonic(), view)
        except SwarmUnreachable as error:
            if name not in self._views:
                raise
            logger.info("looking for servers of %s: %s", name, error)
        finally:
            del self._looking[name]

    def find(self, view: View, stretch: Stretch, refused: Refused) -> tuple[Hop, ...] | None:
        """Return the best hops for a stretch, or None if some block has nobody.

        The banned are left out where others serve, and those who refused in any case.
        """
        now = time.monotonic()
        for bans in (self.bans.now(now), self.bans.strictest(now, self._heard(now))):
            excluded = {*refused, *bans, *stretch.on_route}
            alike = [record for record in view.records if numerics_of(record) == stretch.numerics]
            for records in (alike, view.records) if stretch.numerics else (view.records,):
                seen = self.sample(replace(view, records=tuple(records)), stretch.span, excluded)
                hops = find_route(
                    seen,
                    stretch.span,
                    self.costs(seen),
                    excluded=excluded,
                    before=stretch.before,
                    after=stretch.after,
                )
                if hops is not None:
                    return hops
        return None

    def _heard(self, now: float) -> dict[PeerId, float]:
        loop_now = asyncio.get_running_loop().time()
        return {channel.remote: now - (loop_now - channel.heard_at) for channel in self._peer.channels}

    def sample(self, view: View, span: Span, excluded: Collection[PeerId] = ()) -> View:
        """Return the servers of a large view that a good route may go through."""
        if len(view.records) <= LIMIT:
            return view
        return sample(view, span, self.costs(view), excluded=excluded)

    def costs(self, view: View) -> Costs:
        """Return the round trips that we have measured ourselves, and those that the servers of `view` announce."""
        measured = {c.remote: c.round_trip for c in self._peer.channels if c.round_trip is not None}
        return Costs.of(view, measured)

    async def advise(self, model: Model, hops: tuple[Hop, ...]) -> tuple[list[float], str]:
        """Return what the legs of a route should take, in seconds, and in words what would be faster.

        Both are empty if a hop's record is not seen any more.
        """
        agreement = await self.agreement(model)
        view = self.sample(agreement.view, Span(hops[0].start, hops[-1].end))
        try:
            found = advise(hops, view, self.costs(view), excluded=self.bans.now(time.monotonic()))
        except KeyError:
            return [], ""
        return [*(hop.arrival for hop in found.current.hops), found.current.answer], advice_text(found)

    def missing(self, model: Model, span: Span, agreement: Agreement, refused: Refused, waited: float) -> BlocksMissing:
        """Return the error that names the blocks which nobody serves, and who refused."""
        refused = {**self.bans.now(time.monotonic()), **refused}
        spans = missing_spans(agreement.view, span, excluded=refused)
        text = f"nobody serves blocks {format_spans(spans or [span])} of {model.name} (waited {waited:.0f} s)"
        if agreement.others:
            others = ", ".join(f"{r.span} at {r.peer} ({r.fingerprint[:8]})" for r in agreement.others[:4])
            text += f"; not used, for they hold another checkpoint than ours ({model.fingerprint[:8]}): {others}"
        for peer, error in list(refused.items())[:4]:
            text += f"; {peer} did not take the session: {error}"
        return BlocksMissing(text + "; start a server with --blocks for these")
