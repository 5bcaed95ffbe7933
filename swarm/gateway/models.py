"""The models that are served, each with what the swarm holds of it, looked at every few seconds."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from swarm.blocks.files.bundled import BUNDLED
from swarm.blocks.files.hub import is_cached
from swarm.client import AutoModelForCausalLM, AutoTokenizer, SwarmForCausalLM, served_models
from swarm.errors import ModelNotFound, SwarmError, SwarmUnreachable, UsageError
from swarm.gateway.answering.spelling import Alphabet
from swarm.gateway.faults import Refused
from swarm.log import get_logger
from swarm.membership import Joined
from swarm.planning import format_spans, missing_spans
from swarm.types import PeerId, Span, View

logger = get_logger(__name__)

T = TypeVar("T")

LOOK_INTERVAL = 2.0
"""Seconds between looks at who serves a model."""

NEWS_INTERVAL = 15.0
"""Seconds between looks at which models the swarm serves, where nobody says which are meant."""

RETRY_INTERVAL = 60.0
"""Seconds until a model whose files are here, but could not be loaded, is tried again."""

FIRST_WAIT, POLL_INTERVAL = 2.0, 0.25
"""Seconds at the start for any model to be seen, where nobody says which is meant, and between looks for it."""


class Served:
    """One model.

    Attributes:
        name: As the swarm knows it, and as requests name it.
        model: The client's.
        alphabet: Turns tokens into text, on the event loop.
        created: Unix time.
        view: Who serves it, as seen last.
        trouble: Why that could not be seen; "" if it could.
    """

    def __init__(self, model: SwarmForCausalLM, tokenizer: Any) -> None:
        self.name: str = model.name_or_path
        self.model = model
        self.tokenizer = tokenizer
        # A fast tokenizer must not be used by two threads at once: one encodes, the loop decodes.
        self.alphabet = Alphabet(deepcopy(tokenizer))
        self.created = int(time.time())
        self.view = View(model=self.name, records=(), taken_at=0.0)
        self.trouble = "nobody was asked yet"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"tokens {self.name}")

    @property
    def num_blocks(self) -> int:
        """Blocks of the model."""
        return len(self.model.blocks)

    @property
    def missing(self) -> tuple[Span, ...]:
        """The blocks that nobody serves."""
        return missing_spans(self.view, Span(0, self.num_blocks))

    @property
    def is_ready(self) -> bool:
        """Whether every block has a server."""
        return not self.trouble and not self.missing

    def state_text(self) -> str:
        """Return in words whether it can answer."""
        if self.trouble:
            return f"{self.name}: {self.trouble}"
        missing = self.missing
        return f"{self.name}: nobody serves blocks {format_spans(missing)}" if missing else f"{self.name}: ready"

    def public_name(self, peer: PeerId) -> str:
        """Return what a server calls itself; "" if it has no name, or is not seen any more."""
        return next((record.public_name for record in self.view.records if record.peer == peer), "")

    async def prepare(self, function: Callable[[], T]) -> T:
        """Call what takes a while on this model's own thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def look(self) -> None:
        """See who serves it now.

        Raises:
            SwarmError: Our place in the swarm is lost, for good: our daemon died.
        """
        try:
            self.view, trouble = await asyncio.to_thread(self.model.view), ""
        except SwarmUnreachable as error:
            trouble = str(error)
        before, self.trouble = self.state_text(), trouble
        if (now := self.state_text()) != before:
            logger.info("%s", now)


class Models:
    """All of them, by name.

    Args:
        served: The first ones.
        grows_with: The swarm whose later models are taken in as well; None for these ones only.
    """

    def __init__(self, served: Sequence[Served], grows_with: Joined | None = None) -> None:
        self._served = {each.name: each for each in served}
        if len(self._served) < len(served):
            raise UsageError(f"two models are called alike, among {', '.join(each.name for each in served)}")
        self._grows_with = grows_with
        # Of models that the swarm serves and we do not: why, and when loading was tried.
        self._left_out = dict[str, tuple[str, float]]()

    @classmethod
    async def load(cls, names: Sequence[str], joined: Joined) -> Models:
        """Load models; without names those that the swarm serves and whose files are here, maybe none yet.

        Raises:
            ModelNotFound: One of these names is no model's here.
            SwarmError: As `AutoModelForCausalLM`.
        """
        if names:
            return cls([await asyncio.to_thread(_load, name, joined) for name in names])
        models = cls((), grows_with=joined)
        deadline = time.monotonic() + FIRST_WAIT
        while True:
            has_seen_any = await models._gain(joined)
            if has_seen_any or time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_INTERVAL)
        if not models.names:
            logger.warning("the swarm serves no model whose files are here: requests are refused until it does")
        return models

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._served)

    def find(self, name: str) -> Served:
        """Return a model.

        Raises:
            Refused: There is none of this name.
        """
        if (served := self._served.get(name)) is None:
            others = ", ".join(self.names) or "none yet: the swarm serves no model whose files are here"
            text = f"there is no model {name[:100]!r} here, but {others}"
            raise Refused(text, status=404, fault="model_not_found", param="model")
        return served

    async def watch(self) -> None:
        """See who serves them, again and again, and what else is served.

        Raises:
            ExceptionGroup: Of the `SwarmError` that ended our place in the swarm: only a new process gets another.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look())
            if self._grows_with is not None:
                group.create_task(self._grow(self._grows_with))

    async def _look(self) -> None:
        while True:
            await asyncio.gather(*(served.look() for served in self))
            await asyncio.sleep(LOOK_INTERVAL)

    async def _grow(self, joined: Joined) -> None:
        while True:
            await asyncio.sleep(NEWS_INTERVAL if self._served else LOOK_INTERVAL)
            with suppress(SwarmError):  # the looks at the models tell why
                await self._gain(joined)

    async def _gain(self, joined: Joined) -> bool:
        """Take in what the swarm serves by now; whether it serves anything, ours or not."""
        names = await asyncio.to_thread(_names, joined)
        self._left_out = {name: why for name, why in self._left_out.items() if name in names}
        for name in names:
            if name not in self._served:
                await self._take_in(name, joined)
        return bool(names)

    async def _take_in(self, name: str, joined: Joined) -> None:
        """Load a model and serve it from now on; say once why that cannot be, and try again later."""
        before, tried = self._left_out.get(name, ("", -inf))
        try:
            if not is_here(name):  # strangers' names must not start downloads
                raise ModelNotFound("its files are not here; say MODEL, with its path")
            if time.monotonic() < tried + RETRY_INTERVAL:
                return
            tried = time.monotonic()
            served = await asyncio.to_thread(_load, name, joined)
            if served.name != name:
                raise ModelNotFound(f"the files here are of {served.name}")
        except (SwarmError, ValueError, OSError) as error:  # the last two: of files that are being written just now
            self._left_out[name] = str(error), tried
            if str(error) != before:
                logger.info("the swarm serves %s, the gateway does not: %s", name, error)
            return
        await served.look()
        self._served[name] = served


def _load(name: str, joined: Joined) -> Served:
    model = AutoModelForCausalLM.from_pretrained(name, initial_peers=joined.peers, swarm_key=joined.key)
    return Served(model, AutoTokenizer.from_pretrained(name))


def _names(joined: Joined) -> list[str]:
    entries = served_models(initial_peers=joined.peers, swarm_key=joined.key)
    return list(dict.fromkeys(entry.name for entry in entries))


def is_here(name: str) -> bool:
    """Whether a model that strangers name can be opened without fetching what they chose.

    It is bundled, a folder or a file below the current folder, or in the hub's cache.
    """
    if name in BUNDLED:
        return True
    if os.path.isabs(name) or ".." in Path(name).parts or name.startswith("~"):
        return False
    return Path(name).exists() or is_cached(name)
