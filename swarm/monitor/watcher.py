"""Watching: the directory is looked at in turns, and what it says is put up on the board and noted in the history."""

from __future__ import annotations

import asyncio
import time

from swarm.clock import Clock, SystemClock
from swarm.directory import Directory
from swarm.errors import SwarmUnreachable
from swarm.log import get_logger
from swarm.monitor.board import Board
from swarm.monitor.history import History, Sample
from swarm.monitor.state import ModelState, SwarmState
from swarm.monitor.surveying import deserted, survey

MAX_SHARE = 0.25
"""Of the time that looks may take: in a swarm in which they take long, they become rarer."""

LONGEST_PAUSE = 30.0
"""Seconds: who looks more seldom misses servers that come and go."""

PATIENCE = 5.0
"""Seconds for somebody of the swarm to be there, before it is said that nobody is."""

REMEMBERED = 3600.0
"""Seconds that a model which could be used is shown after its last server left, as one without servers."""

MAX_REMEMBERED = 16
"""Models shown without servers: names come from strangers."""

logger = get_logger(__name__)


class Watcher:
    """Looks at the swarm again and again; `run` is a task.

    Attributes:
        has_looked: Set after the first look that found a swarm.
        look_seconds: How long the last look took.
        failures: Looks that found nobody to ask.
    """

    def __init__(
        self, directory: Directory, board: Board, history: History, *, interval: float, clock: Clock | None = None
    ) -> None:
        self._directory = directory
        self._board = board
        self._history = history
        self._interval = interval
        self._clock = clock or SystemClock()
        self._memory = Memory()
        self.has_looked = asyncio.Event()
        self.look_seconds = 0.0
        self.failures = 0

    async def run(self) -> None:
        """Look for ever."""
        async with asyncio.TaskGroup() as group:
            noting: asyncio.Task[None] | None = None
            while True:
                began = time.monotonic()
                state = await self._look()
                self.look_seconds = time.monotonic() - began
                self._board.put_up(state)
                if not state.problem:
                    self.has_looked.set()
                    if noting is None or noting.done():  # a disk that is slow costs samples, not looks
                        noting = group.create_task(self._history.note(samples_of(state), now=self._clock.unix()))
                await asyncio.sleep(max(self._interval, min(self.look_seconds / MAX_SHARE, LONGEST_PAUSE)))

    async def _look(self) -> SwarmState:
        try:
            await self._directory.wait_connected(PATIENCE)
            views = await self._directory.views()
            if not self._directory.is_connected:
                # Whoever was asked is gone: silence is no news of the servers.
                raise SwarmUnreachable("nobody of the swarm answers any more")
            now = self._clock.unix()
            return self._memory.complete(survey(views, now=now), now=now)
        except SwarmUnreachable as error:
            problem = str(error)
        except Exception as error:  # a periodic task over strangers' records: the next look may do better
            logger.debug("a look failed", exc_info=error)
            problem = f"looking failed: {type(error).__name__}: {error}"
        self.failures += 1
        before = self._board.state
        if problem != before.problem:
            logger.warning("the swarm is not seen: %s", problem)
        return SwarmState(taken_at=before.taken_at, models=before.models, problem=problem)


class Memory:
    """Remembers models that could be used, so that one whose last server left is missed."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, ModelState]] = {}

    def complete(self, state: SwarmState, *, now: float) -> SwarmState:
        """Return `state` with the models that it lacks; `now` is a Unix time."""
        for model in state.models:
            if model.is_whole or model.name in self._seen:
                self._seen[model.name] = (now, model)
        latest = sorted(self._seen.items(), key=lambda entry: -entry[1][0])
        names = {model.name for model in state.models}
        gone = [(name, entry) for name, entry in latest if name not in names and now - entry[0] < REMEMBERED]
        gone = gone[:MAX_REMEMBERED]
        self._seen = {name: entry for name, entry in latest if name in names} | dict(gone)
        lost = tuple(deserted(model) for _, (_, model) in gone)
        return SwarmState(taken_at=state.taken_at, models=state.models + lost, problem=state.problem)


def samples_of(state: SwarmState) -> list[Sample]:
    """Return what the history notes of a state."""
    return [
        Sample(model.name, len(model.servers), model.num_blocks, model.num_covered, model.per_s)
        for model in state.models
    ]
