"""The board: the latest state, and those who watch it change.

Who reads the event stream first gets the whole state, then what each look changed. Who does not keep up is let go and
comes again: what is kept for each is bounded.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager

from swarm.errors import Busy
from swarm.monitor.shapes import Json, frame_shape, model_shape, servers_shape, swarm_shape
from swarm.monitor.state import SwarmState

MAX_READERS = 128
"""Open event streams; each costs a socket and what it has not read yet."""

MAX_BEHIND = 16
"""Changes that a reader may be behind: half a minute of looks."""


class Reader:
    """One event stream. Made by `Board.reading`."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.is_open = True

    def offer(self, event: bytes) -> None:
        """Keep an event for this reader, or let it go if it is too far behind."""
        if self.is_open and self._waiting.qsize() < MAX_BEHIND:
            self._waiting.put_nowait(event)
        else:
            self.end()

    def end(self) -> None:
        """Let it read what is kept, and no more."""
        if self.is_open:
            self.is_open = False
            self._waiting.put_nowait(None)

    async def next(self, timeout: float) -> bytes | None:
        """Return the next event, b"" if there is none within `timeout` seconds, None after the last one."""
        try:
            async with asyncio.timeout(timeout):
                return await self._waiting.get()
        except TimeoutError:
            return b""


class Board:
    """Holds the latest state.

    Attributes:
        state: As it was last put up.
        looks: How often one was put up.
    """

    def __init__(self) -> None:
        self.state = SwarmState(taken_at=0.0, problem="the first look at the swarm is not over yet")
        self.looks = 0
        self._readers: set[Reader] = set()
        self._models: dict[str, Json] = {}
        self._servers: dict[str, Json] = {}
        self._whole: bytes | None = None

    @property
    def num_readers(self) -> int:
        """Event streams that are open."""
        return len(self._readers)

    def put_up(self, state: SwarmState) -> None:
        """Replace the state, and tell every reader what is new."""
        models = {model.name: model_shape(model) for model in state.models}
        servers = dict(servers_shape(state))
        change = frame_shape(state) | {
            "models": [shape for name, shape in models.items() if shape != self._models.get(name)],
            "servers": [shape for key, shape in servers.items() if shape != self._servers.get(key)],
            "gone_models": [name for name in self._models if name not in models],
            "gone": [[shape["model"], shape["peer"]] for key, shape in self._servers.items() if key not in servers],
        }
        self.state, self._models, self._servers, self._whole = state, models, servers, None
        self.looks += 1
        if self._readers:
            event = _event("change", _encoded(change))
            for reader in tuple(self._readers):
                reader.offer(event)

    def whole(self) -> bytes:
        """Return the whole state as JSON."""
        if self._whole is None:
            self._whole = _encoded(swarm_shape(self.state))
        return self._whole

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Give events until the block is left, the whole state first.

        Raises:
            Busy: There are `MAX_READERS` already.
        """
        if len(self._readers) >= MAX_READERS:
            raise Busy(f"{MAX_READERS} event streams are open; close one of them", retry_after=5.0)
        reader = Reader()
        reader.offer(_event("state", self.whole()))
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    def close(self) -> None:
        """Let all readers go."""
        for reader in self._readers:
            reader.end()


def _encoded(shape: Json) -> bytes:
    return json.dumps(shape, separators=(",", ":"), allow_nan=False).encode()


def _event(name: str, body: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + body + b"\n\n"
