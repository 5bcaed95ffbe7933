"""Writing one text: a stream's tokens become pieces of text, as soon as they can be given."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal

from swarm.client import TokenStream
from swarm.client.streaming.likelihood import Likelihood
from swarm.gateway.answering.spelling import Alphabet, Speller
from swarm.gateway.answering.stopping import Stops

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Written:
    """A token of the answer, with its likelihood.

    Attributes:
        token: Its id.
        offset: Characters of the answer before it.
        likelihood: See `Likelihood`.
    """

    token: int
    offset: int
    likelihood: Likelihood


@dataclass(frozen=True, slots=True)
class Piece:
    """What comes next of a text.

    Attributes:
        text: May be empty at the end.
        written: Its tokens, if likelihoods were asked for; end tokens and stop strings are not among them.
        finish: Why the text ends here; None if it goes on.
    """

    text: str
    written: tuple[Written, ...] = ()
    finish: Finish | None = None


class Writer:
    """Writes one text."""

    def __init__(self, stream: TokenStream, alphabet: Alphabet, stops: tuple[str, ...]) -> None:
        self.stream = stream
        self._num_new = 0
        self._speller = Speller(alphabet.decode)
        self._stops = Stops(stops)
        self._spelt = 0  # characters so far, those held back and stop strings included
        self._given = 0
        self._pending: list[Written] = []

    async def pieces(self) -> AsyncGenerator[Piece]:
        """Give the text piece by piece, the last one with the reason for its end.

        Raises:
            SwarmError: As reading the stream does.

        Left or cancelled: close the stream.
        """
        is_ended = False
        async for token in self.stream:
            self._num_new += 1
            is_ended = token in self.stream.end_tokens
            if is_ended:
                continue  # it is the last one
            text = self._take(token)
            if self._stops.is_reached:
                await self.stream.aclose()
                yield self._last(text, "stop")
                return
            if text:
                yield self._piece(text)
        text = self._stops.add(self._spell(self._speller.end()))
        is_ended = is_ended or self._stops.is_reached
        yield self._last(text + self._stops.end(), "stop" if is_ended else "length")

    def num_new(self) -> int:
        """Return how many tokens were made since this was asked last, end tokens included."""
        count, self._num_new = self._num_new, 0
        return count

    def _take(self, token: int) -> str:
        """Spell a token; return what can be given now."""
        if self.stream.likelihood is not None:
            self._pending.append(Written(token, self._spelt, self.stream.likelihood))
        return self._stops.add(self._spell(self._speller.add(token)))

    def _spell(self, text: str) -> str:
        self._spelt += len(text)
        return text

    def _piece(self, text: str) -> Piece:
        self._given += len(text)
        count = sum(written.offset < self._given for written in self._pending)
        written, self._pending = tuple(self._pending[:count]), self._pending[count:]
        return Piece(text, written)

    def _last(self, text: str, finish: Finish) -> Piece:
        self._given += len(text)
        is_cut = self._stops.is_reached
        written = tuple(each for each in self._pending if each.offset < self._given or not is_cut)
        return Piece(text, written, finish)
