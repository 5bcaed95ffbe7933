"""The latest answers, running and ended: which way each one goes, for whoever sent the request."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from swarm.client import Explanation, TokenStream
from swarm.gateway.models import Served

MAX_RECENT = 300
"""Answers that are remembered: the timings of each are some 100 KiB at most."""


class Answer:
    """One answer under way, or ended.

    Attributes:
        answer_id: Its name.
        key: Who may ask.
        served: The model.
        streams: Its texts; only the first one once it is over.
        num_tokens: Made so far.
        is_over: Whether it has ended.
    """

    def __init__(self, answer_id: str, key: str, served: Served, streams: Sequence[TokenStream]) -> None:
        self.answer_id = answer_id
        self.key = key
        self.served = served
        self.streams = tuple(streams)
        self.num_tokens = 0
        self.is_over = False
        self._first_at = self._last_at = 0.0
        self._others_failovers = 0

    def count(self, num_tokens: int) -> None:
        """Note new tokens."""
        self._last_at = time.monotonic()
        if not self.num_tokens:
            self._first_at = self._last_at
        self.num_tokens += num_tokens

    @property
    def tokens_per_s(self) -> float:
        """How fast they come, all texts together, from the first one on."""
        seconds = self._last_at - self._first_at
        return (self.num_tokens - 1) / seconds if seconds > 0 else 0.0

    @property
    def num_failovers(self) -> int:
        """How often hops were replaced, of all texts."""
        return self._others_failovers + sum(stream.num_failovers for stream in self.streams)

    def end(self) -> None:
        """Note that all texts have ended."""
        self.is_over = True
        self._others_failovers += sum(stream.num_failovers for stream in self.streams[1:])
        self.streams = self.streams[:1]

    async def route(self) -> dict[str, Any]:
        """Return the route of its first text and the times of its hops; no hops before its session is open."""
        return self._body(await asyncio.to_thread(self.streams[0].explain))

    def _body(self, explanation: Explanation) -> dict[str, Any]:
        return {
            "id": self.answer_id,
            "model": self.served.name,
            "state": "done" if self.is_over else "running",
            "hops": [
                {
                    "peer": times.hop.peer,
                    "name": self.served.public_name(times.hop.peer),
                    "start": times.hop.start,
                    "end": times.hop.end,
                    "network_ms": _ms(times.network),
                    "queue_ms": _ms(times.queue),
                    "compute_ms": _ms(times.compute),
                    "handling_ms": _ms(times.handling),
                }
                for times in explanation.hops
            ],
            "back_ms": _ms(explanation.answer),
            "step_ms": _ms(explanation.step),
            "tokens": self.num_tokens,
            "tokens_per_s": round(self.tokens_per_s, 2),
            "failovers": self.num_failovers,
            "advice": explanation.advice,
        }


class Recent:
    """The latest answers, by their names."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def add(self, answer: Answer) -> None:
        """Remember an answer."""
        self._answers[answer.answer_id] = answer
        while len(self._answers) > MAX_RECENT:
            self._answers.popitem(last=False)

    def find(self, answer_id: str, key: str) -> Answer | None:
        """Return an answer to one who may see it."""
        answer = self._answers.get(answer_id)
        return answer if answer is not None and answer.key == key else None


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)
