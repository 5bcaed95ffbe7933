"""Opening a session: every hop is asked at once, and told what the prompt begins with.

A hop that does not take the session is to blame by name, so that another route can be tried without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from swarm.blocks import PAGE_SLOTS
from swarm.client.legs import Leg
from swarm.client.prefixes import lineage
from swarm.errors import BadResult, HopTimeout, SwarmError
from swarm.network import Channel
from swarm.types import Hop, PeerId
from swarm.wire import Find, Found, Message, Open, Opened
from swarm.wire.codecs import encode_tensor
from swarm.wire.limits import HASH_BYTES
from swarm.wire.outbox import Body


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a session must know of the model it runs; `dtype` is that of the embeddings."""

    name: str
    fingerprint: str
    hidden_size: int
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a sequence begins with.

    Attributes:
        sequence: Its number.
        hashes: Of its first full pages, one behind the other, 16 bytes each.
        body: Makes the bytes of its first tokens, as many as are found, as they are sent in a codec.
    """

    sequence: int
    hashes: bytes
    body: Callable[[str, int], Body] | None = None


def bodies_of(embed: Callable[[Tensor, Tensor], Tensor], ids: Sequence[int]) -> Callable[[str, int], Body]:
    """Return what makes the bytes of the first of these tokens; `embed` as in `swarm.client.source.Ways`."""

    def body(codec: str, tokens: int) -> Body:
        return encode_tensor(embed(torch.tensor(ids[:tokens]), torch.arange(tokens)), codec)

    return body


class HopUnusable(Exception):
    """A hop does not take a session; another route may do. Never leaves the client's rooms."""

    def __init__(self, peer: PeerId, error: SwarmError) -> None:
        super().__init__(str(error))
        self.peer = peer
        self.error = error


def open_messages(
    session: bytes, legs: Sequence[Leg], after: Leg | None, *, model: Model, codec: str, priority: int
) -> list[Open]:
    """Return what each hop is told; `after` is the hop behind the last of them."""
    hops = [leg.hop for leg in legs]
    return [
        Open(
            session,
            model.name,
            model.fingerprint,
            leg.hop.start,
            leg.hop.end,
            codec,
            "" if behind is None else behind.peer,
            () if behind is None else behind.addrs,
            num_hops=len(hops),
            priority=priority,
            lineage=lineage(f"{model.fingerprint} {model.dtype}", codec, hops[: index + 1]),
        )
        for index, (leg, behind) in enumerate(zip(legs, [*legs[1:], after], strict=True))
    ]


class Opening:
    """The hops' answers to one opening; lives on the loop.

    Attributes:
        free_pages: KV pages that each hop had free then.
        held: Tokens that each looked-up sequence begins with, at every hop, once `wait` has returned.
    """

    def __init__(self, hops: Sequence[Hop], channels: Sequence[Channel], wanted: Sequence[Wanted]) -> None:
        loop = asyncio.get_running_loop()
        self._hops = hops
        self._wanted = {each.sequence: each.hashes for each in wanted}
        self._answers = {channel: loop.create_future() for channel in channels}
        self._found: dict[Channel, dict[int, int]] = {channel: {} for channel in channels}
        self.free_pages: dict[PeerId, int] = {}
        self.held: dict[int, int] = {}

    def send(self, session: bytes, messages: Sequence[Open]) -> None:
        """Ask every hop.

        Raises:
            HopUnusable: A channel is closed.
        """
        for hop, channel, message in zip(self._hops, self._answers, messages, strict=True):
            try:
                channel.send(message)
                for sequence, hashes in self._wanted.items():
                    channel.send(Find(session, sequence, hashes))
            except SwarmError as error:
                raise HopUnusable(hop.peer, error) from error

    async def wait(self, timeout: float) -> None:
        """Wait until every hop has answered, or the first has refused; the hop that did is to blame.

        Raises:
            HopUnusable: It did not accept, or did not answer within `timeout` seconds.
        """
        answers = list(self._answers.values())
        done, late = await asyncio.wait(answers, timeout=timeout, return_when=asyncio.FIRST_EXCEPTION)
        refused = {answer: answer.exception() for answer in done}
        for hop, answer in zip(self._hops, answers, strict=True):
            if isinstance(error := refused.get(answer), SwarmError):
                raise HopUnusable(hop.peer, error)
        for hop, answer in zip(self._hops, answers, strict=True):
            if answer in late:
                raise HopUnusable(hop.peer, HopTimeout(f"no answer within {timeout:.0f} s"))
        for sequence in self._wanted:
            self.held[sequence] = min(found[sequence] for found in self._found.values())

    def received(self, channel: Channel, hop: Hop, message: Message) -> None:
        """Take a hop's answer; one that comes behind all that was asked for counts for nothing."""
        if channel not in self._answers or self._answers[channel].done():
            return
        if isinstance(message, Opened):
            self.free_pages[hop.peer] = message.free_pages
        elif isinstance(message, Found) and message.sequence in self._wanted:
            if message.tokens > len(self._wanted[message.sequence]) // HASH_BYTES * PAGE_SLOTS:
                self.fail(channel, BadResult(f"hop {hop} found {message.tokens} tokens, which is more than was asked"))
                return
            self._found[channel][message.sequence] = message.tokens
        if hop.peer in self.free_pages and len(self._found[channel]) == len(self._wanted):
            self._settle(channel, None)

    def fail(self, channel: Channel, error: SwarmError) -> bool:
        """Note that a hop refused or is lost; False if it had accepted before."""
        return self._settle(channel, error)

    def _settle(self, channel: Channel, error: SwarmError | None) -> bool:
        answer = self._answers.get(channel)
        if answer is None or answer.done():
            return False
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)
            answer.exception()  # seen, whether or not somebody still waits
        return True
