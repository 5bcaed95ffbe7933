"""One answer: tokens come from the swarm, words go to the screen, and the status tells how it is getting on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from swarm.chat.progress import NEWS, Progress, status_text
from swarm.chat.screen import Screen
from swarm.client import Explanation, SwarmForCausalLM, TokenStream
from swarm.errors import SwarmError
from swarm.gateway.answering.spelling import Alphabet, Speller
from swarm.types import PeerId

LOOK_INTERVAL = 0.25
"""Seconds between looks at where the answer comes from."""


class Answer:
    """An answer while it comes, and what has come of it.

    Attributes:
        text: The words so far, whatever ends them.
        progress: See `Progress`.
        explanation: Where its time went, as last seen; None before.
        names: What the servers call themselves.
    """

    def __init__(self, model: SwarmForCausalLM, tokenizer: Any, screen: Screen) -> None:
        self._model = model
        self._words = Speller(Alphabet(tokenizer).decode)
        self._screen = screen
        self.text = ""
        self.progress = Progress(time.monotonic())
        self.explanation: Explanation | None = None
        self.names: Mapping[PeerId, str] = {}

    async def run(self, prompt: Sequence[int], options: Mapping[str, Any]) -> None:
        """Show an answer to its end.

        Args:
            prompt: Token ids.
            options: Of `SwarmForCausalLM.stream`.

        Raises:
            SwarmError: What the stream ended with; `text` has what came before.

        Cancelled: the stream is closed; `text` has what came before.
        """
        stream = self._model.stream(prompt, **options)
        watching = asyncio.create_task(self._watch(stream))
        try:
            async for token in stream:
                self.progress.token(time.monotonic())
                self._show(self._words.add(token))
        finally:
            self._show(self._words.end())
            watching.cancel()
            await stream.aclose()
            await asyncio.gather(watching, return_exceptions=True)
            self._look(stream)  # what a short answer was over before

    def _show(self, text: str) -> None:
        self.text += text
        if text:
            self._screen.write(text)

    async def _watch(self, stream: TokenStream) -> None:
        while True:
            # In a thread: it may take a look into the directory, and the words must not wait for that.
            await asyncio.to_thread(self._look, stream)
            now = time.monotonic()
            is_news = bool(self.progress.num_failovers) and now - self.progress.failover_at < NEWS
            self._screen.status(status_text(self.progress, self.names, now), is_news=is_news)
            await asyncio.sleep(LOOK_INTERVAL)

    def _look(self, stream: TokenStream) -> None:
        with suppress(SwarmError):  # the directory has its moments; the answer does not depend on it
            self.explanation = explanation = stream.explain()
            if any(times.hop.peer not in self.names for times in explanation.hops):
                self.names = {record.peer: record.public_name for record in self._model.view().records}
            self.progress.saw(explanation, self.names, time.monotonic())
