"""A session: one generation's way through its hops, seen from the client.

Steps go to the first hop and travel on by themselves; the last hop's results come back on our
channel to it. All of this runs on the bridge's loop. A step that fails leaves the session usable:
each step says at which position it begins, so the next one drops whatever half arrived. Only forks
cannot be repeated: whether the hops made them is unknown then (see `RemoteCache`).

Steps count from 1: an Error about step 0 is about the whole session.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from swarm.client.chunks import Piece, split_rows
from swarm.client.config import ClientConfig
from swarm.client.explain import StepTiming
from swarm.errors import BadResult, HopLost, HopTimeout, SwarmError, from_code
from swarm.log import get_logger
from swarm.network import Channel
from swarm.types import Hop, PeerId
from swarm.wire import Cancel, Close, Error, Message, Open, Opened, Result, Row, Step, unpack_timings
from swarm.wire.codecs import decode_tensor, encode_tensor

logger = get_logger(__name__)

MAX_TIMINGS = 512
"""Recent steps kept for `explain`."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A step under way."""

    tokens: int
    kept: int
    sent_at: float
    answer: asyncio.Future[Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a session must know of the model it runs."""

    name: str
    fingerprint: str
    hidden_size: int


class HopUnusable(Exception):
    """A hop does not take a session; another route may do. Never leaves the client's rooms."""

    def __init__(self, peer: PeerId, error: SwarmError) -> None:
        super().__init__(str(error))
        self.peer = peer
        self.error = error


class Session:
    """An open session; made by `Connection.open_session`.

    Attributes:
        hops: The route.
        codec: How activations travel.
        timings: Recent steps, newest last.
        num_results: Results received, one for each step sent, whatever the number of hops.
        free_pages: KV pages that each hop had free when it opened the session.
    """

    def __init__(
        self, hops: Sequence[Hop], channels: Sequence[Channel], model: Model, codec: str, config: ClientConfig
    ) -> None:
        self.hops = tuple(hops)
        self.codec = codec
        self.timings: deque[StepTiming] = deque(maxlen=MAX_TIMINGS)
        self.num_results = 0
        self.free_pages: dict[PeerId, int] = {}
        self.session_id = os.urandom(16)
        self._channels = tuple(channels)
        self._model = model
        self._config = config
        self._last_step = 0
        self._epoch = 0
        self._waiting: dict[int, _Waiting] = {}
        self._opening: dict[Channel, asyncio.Future[None]] = {}
        self._broken: SwarmError | None = None

    async def open(self, addrs: Sequence[tuple[str, ...]]) -> None:
        """Open the session at every hop at once; `addrs` are the hops' own, for the hop before each.

        Raises:
            HopUnusable: A hop did not accept, or not in time; close the session then.
        """
        loop = asyncio.get_running_loop()
        self._opening = {channel: loop.create_future() for channel in self._channels}
        following = [*((hop.peer, found) for hop, found in zip(self.hops, addrs, strict=True)), ("", ())][1:]
        model, codec = self._model, self.codec
        for hop, channel, onward in zip(self.hops, self._channels, following, strict=True):
            message = Open(self.session_id, model.name, model.fingerprint, hop.start, hop.end, codec, *onward)
            try:
                channel.send(message)
            except SwarmError as error:
                raise HopUnusable(hop.peer, error) from error
        await self._wait_opened()

    async def _wait_opened(self) -> None:
        """Wait for all hops' answers, or the first refusal: the hop that gave it is to blame."""
        timeout = self._config.timeouts.open
        answers = list(self._opening.values())
        done, late = await asyncio.wait(answers, timeout=timeout, return_when=asyncio.FIRST_EXCEPTION)
        refused = {answer: answer.exception() for answer in done}
        for hop, answer in zip(self.hops, answers, strict=True):
            if isinstance(error := refused.get(answer), SwarmError):
                raise HopUnusable(hop.peer, error)
        for hop, answer in zip(self.hops, answers, strict=True):
            if answer in late:
                raise HopUnusable(hop.peer, HopTimeout(f"no answer within {timeout:.0f} s"))

    async def step(self, rows: Sequence[Row], hidden: Tensor) -> Tensor:
        """Run the rows' tokens through all hops.

        Args:
            rows: What each sequence does; see `swarm.wire.Row`.
            hidden: (T, D) the rows' tokens one after another.

        Returns:
            (sum of `keep`, D), the kept tokens row by row, in the codec's dtype.

        Raises:
            HopTimeout, HopLost, HopFailed, Busy, BadResult: See `swarm.errors`; the hops may or may
                not hold the step, the next one may begin at the same position.

        Cancelled: as HopTimeout; hops that have not run the step yet will not.
        """
        if self._broken is not None:
            raise self._broken
        chunks = split_rows(rows, self._config.chunk_tokens)
        sent: list[_Waiting] = []
        try:
            for chunk in chunks:
                sent.append(self._send(chunk, hidden))
            results = [await self._result(waiting) for waiting in sent]
        except BaseException:
            self._abandon(sent)
            raise
        return _by_row(chunks, results)

    @property
    def is_usable(self) -> bool:
        """Whether no hop is lost and the session is not closed."""
        return self._broken is None

    def close(self) -> None:
        """Tell all hops to forget the session; never waits, never fails. A step under way ends with `HopLost`."""
        self._break(HopLost("the session is closed"))
        for channel in self._channels:
            with suppress(SwarmError):  # else the hop's half ended with its channel
                channel.send(Close(self.session_id))

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        """Take a message about this session."""
        match message:
            case Result():
                self._on_result(channel, message, body)
            case Opened() if channel in self._opening:
                self._on_opened(channel, message)
            case Error():
                self._on_error(channel, message)
            case _:
                logger.debug("peer %s: unexpected %s", channel.remote, type(message).__name__)

    def lost(self, channel: Channel, reason: Exception | None) -> None:
        """A channel of the route ended: whatever is under way will not come."""
        hop = self._hop(channel)
        if hop is not None:
            error = HopLost(f"lost hop {hop}: {reason or 'the peer closed the connection'}")
            if (opening := self._opening.get(channel)) is not None:
                _settle(opening, error)
            self._break(error)

    def uses(self, channel: Channel) -> bool:
        """Whether `channel` leads to one of the hops."""
        return channel in self._channels

    def _send(self, chunk: list[Piece], hidden: Tensor) -> _Waiting:
        parts = [hidden[piece.start : piece.end] for piece in chunk]
        tokens = parts[0] if len(parts) == 1 else torch.cat(parts)
        self._last_step = step = self._last_step + 1
        route = tuple(hop.peer for hop in self.hops[1:])
        message = Step(self.session_id, step, self._epoch, self.codec, tuple(piece.row for piece in chunk), route)
        kept = sum(piece.row.keep for piece in chunk)
        waiting = _Waiting(len(tokens), kept, time.monotonic(), asyncio.get_running_loop().create_future())
        self._waiting[step] = waiting
        self._channels[0].send(message, encode_tensor(tokens, self.codec))
        return waiting

    async def _result(self, waiting: _Waiting) -> Tensor:
        try:
            return await asyncio.wait_for(waiting.answer, self._config.timeouts.step)
        except TimeoutError:
            raise HopTimeout(f"no result from {self._route_text()} within {self._config.timeouts.step:.0f} s") from None

    def _on_opened(self, channel: Channel, message: Opened) -> None:
        hop = self._hop(channel)
        if hop is not None:
            self.free_pages[hop.peer] = message.free_pages
        _settle(self._opening[channel])

    def _on_result(self, channel: Channel, message: Result, body: bytearray) -> None:
        if channel is not self._channels[-1]:
            logger.debug("peer %s: a result from a hop that is not the last", channel.remote)
            return
        waiting = self._waiting.pop(message.step, None)
        if waiting is None or waiting.answer.done():
            return
        self.num_results += 1
        try:
            waiting.answer.set_result(self._checked(message, body, waiting))
        except SwarmError as error:
            waiting.answer.set_exception(error)
            return
        seconds = time.monotonic() - waiting.sent_at
        self.timings.append(StepTiming(waiting.tokens, seconds, unpack_timings(message.times)))

    def _checked(self, message: Result, body: bytearray, waiting: _Waiting) -> Tensor:
        if message.tokens != waiting.kept or message.codec != self.codec:
            raise BadResult(
                f"hop {self.hops[-1]} sent {message.tokens} tokens in {message.codec}, "
                f"not {waiting.kept} in {self.codec}"
            )
        hidden = decode_tensor(body, message.codec, tokens=message.tokens, hidden_size=self._model.hidden_size)
        if not bool(hidden.isfinite().all()):
            raise BadResult(f"hop {self.hops[-1]} sent numbers that are not finite")
        return hidden

    def _on_error(self, channel: Channel, message: Error) -> None:
        hop = self._hop(channel)
        error = from_code(message.code, f"hop {hop}: {message.text}", retry_after=message.retry_after)
        opening = self._opening.get(channel)
        if opening is not None and not opening.done():
            opening.set_exception(error)
        elif not message.step or message.step in self._waiting:  # else it is about a step given up before
            for waiting in self._waiting.values():  # chunks behind a failed one begin where nothing is
                _settle(waiting.answer, error)

    def _break(self, error: SwarmError) -> None:
        self._broken = self._broken or error
        for waiting in self._waiting.values():
            _settle(waiting.answer, error)

    def _abandon(self, sent: list[_Waiting]) -> None:
        """Forget steps under way: a new epoch makes the hops drop those that have not run."""
        self._waiting.clear()
        for waiting in sent:
            if waiting.answer.done() and not waiting.answer.cancelled():
                waiting.answer.exception()  # seen
        self._epoch += 1
        for channel in self._channels:
            with suppress(SwarmError):  # a dead hop has nothing to cancel
                channel.send(Cancel(self.session_id, self._epoch))

    def _hop(self, channel: Channel) -> Hop | None:
        return next((hop for hop, own in zip(self.hops, self._channels, strict=True) if own is channel), None)

    def _route_text(self) -> str:
        return " -> ".join(str(hop) for hop in self.hops)


def _by_row(chunks: list[list[Piece]], results: list[Tensor]) -> Tensor:
    """Put the kept tokens of all chunks back in the order of the rows."""
    if len(chunks) == 1:
        return results[0]
    found: dict[int, list[Tensor]] = {}
    for chunk, result in zip(chunks, results, strict=True):
        parts = torch.split(result, [piece.row.keep for piece in chunk])
        for piece, part in zip(chunk, parts, strict=True):
            found.setdefault(piece.index, []).append(part)
    return torch.cat([part for index in sorted(found) for part in found[index]])


def _settle(future: asyncio.Future[None] | asyncio.Future[Tensor], error: Exception | None = None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)  # type: ignore[arg-type]
    else:
        future.set_exception(error)
