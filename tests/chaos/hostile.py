"""A server that speaks as all do and lies: `python -m tests.chaos.hostile` with a server's flags.

Everything is the real server's, but for the answers to steps: each session is answered in another way, in turn.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from itertools import cycle

import torch

from swarm.server import handler
from swarm.server.__main__ import main
from swarm.server.answers import Answers
from swarm.server.links import Links
from swarm.server.tally import Tally
from swarm.server.work import Work

HONEST_STEPS = 4
"""Of each session: then it is trusted."""


def nan(body: bytes) -> bytes:
    """Numbers that are none."""
    return torch.full((len(body) // 4,), math.nan).numpy().tobytes()


def endless(body: bytes) -> bytes:
    """One number that is too large for anything."""
    return torch.tensor([math.inf]).numpy().tobytes() + body[4:]


def short(body: bytes) -> bytes:
    """Half of what is asked for."""
    return body[: len(body) // 8 * 4]


def long(body: bytes) -> bytes:
    """Twice what is asked for."""
    return body + body


SPOILING: tuple[Callable[[bytes], bytes], ...] = (nan, endless, short, long)
LIES = (*(lie.__name__ for lie in SPOILING), "noise", "nothing")


class LyingAnswers(Answers):
    """Spoils what the real server is about to send."""

    def __init__(self, links: Links, tally: Tally) -> None:
        super().__init__(links, tally)
        self._lies = cycle(LIES)
        self._told: dict[bytes, tuple[str, int]] = {}

    def deliver(self, works: Sequence[Work]) -> None:
        """As the server's own, once it was honest for a while."""
        for work in works:
            session = work.owner.session_id
            lie, count = self._told[session] if session in self._told else (next(self._lies), 0)
            self._told[session] = lie, count + 1
            if count >= HONEST_STEPS and work.answer is not None:
                print(f"lie={lie}", flush=True)
                self._spoil(work, lie)
        super().deliver(works)

    def _spoil(self, work: Work, lie: str) -> None:
        if lie == "nothing":
            work.answer = None  # no answer at all, though it lives and answers pings
        elif lie == "noise":
            transport = work.owner.owner._stream._transport
            assert transport is not None
            transport.write(os.urandom(4096))  # bytes that are no frame, on the client's connection
        else:
            assert work.answer is not None
            spoil = SPOILING[LIES.index(lie)]
            work.answer = memoryview(spoil(bytes(work.answer)))


if __name__ == "__main__":
    handler.Answers = LyingAnswers  # type: ignore[misc]
    sys.exit(main())
