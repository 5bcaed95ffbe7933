"""A session: one generation's way through its hops, seen from the client.

Steps go to the first hop and travel on by themselves; the last hop's results come back on our
channel to it. All of this runs on the bridge's loop. A step that fails leaves the session usable:
each step says at which position it begins, so the next one drops whatever half arrived.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Sequence
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
from swarm.wire import Cancel, Close, Error, Message, Open, Opened, Result, Row, Step
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
    """

    def __init__(self, hops: Sequence[Hop], channels: Sequence[Channel], model: Model, codec: str, config: ClientConfig):
        self.hops = tuple(hops)
        self.codec = codec
        self.timings: deque[StepTiming] = deque(maxlen=MAX_TIMINGS)
        self.num_results = 0
        self.session_id = os.urandom(16)
        self._channels = tuple(channels)
        self._model = model
        self._config = config
        self._num_steps = 0
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
        for hop, channel, (next_peer, next_addrs) in zip(self.hops, self._channels, following, strict=True):
            channel.send(
                Open(
                    self.session_id,
                    self._model.name,
                    self._model.fingerprint,
                    hop.start,
                    hop.end,
                    self.codec,
                    next_peer,
                    next_addrs,
                )
            )
        done, late = await asyncio.wait(self._opening.values(), timeout=self._config.timeouts.open)
        for hop, opening in zip(self.hops, self._opening.values(), strict=True):
            if opening in late:
                opening.cancel()
                raise HopUnusable(hop.peer, HopTimeout(f"no answer within {self._config.timeouts.open:.0f} s"))
            if isinstance(error := opening.exception(), SwarmError):
                raise HopUnusable(hop.peer, error)

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
        sent = [self._send(chunk, hidden) for chunk in chunks]
        try:
            results = [await self._result(waiting) for waiting in sent]
        except BaseException:
            self._abandon(sent)
            raise
        return _by_row(chunks, results)

    def close(self) -> None:
        """Tell all hops to forget the session; never waits, never fails."""
        self._broken = self._broken or HopLost("the session is closed")
        for channel in self._channels:
            try:
                channel.send(Close(self.session_id))
            except SwarmError:
                pass  # the hop's half ended with its channel

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        """Take a message about this session."""
        match message:
            case Result():
                self._on_result(channel, message, body)
            case Opened() if channel in self._opening:
                _settle(self._opening[channel])
            case Error():
                self._on_error(channel, message)
            case _:
                logger.debug("peer %s: unexpected %s", channel.remote, type(message).__name__)

    def lost(self, channel: Channel, reason: Exception | None) -> None:
        """A channel of the route ended: whatever is under way will not come."""
        hop = self._hop(channel)
        if hop is not None:
            self._break(HopLost(f"lost hop {hop}: {reason or 'the peer closed the connection'}"))

    def uses(self, channel: Channel) -> bool:
        """Whether `channel` leads to one of the hops."""
        return channel in self._channels

    def _send(self, chunk: list[Piece], hidden: Tensor) -> _Waiting:
        parts = [hidden[piece.start : piece.end] for piece in chunk]
        tokens = parts[0] if len(parts) == 1 else torch.cat(parts)
        step, self._num_steps = self._num_steps, self._num_steps + 1
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

    def _on_result(self, channel: Channel, message: Result, body: bytearray) -> None:
        waiting = self._waiting.pop(message.step, None)
        if waiting is None or waiting.answer.done() or channel is not self._channels[-1]:
            return
        self.num_results += 1
        try:
            waiting.answer.set_result(self._checked(message, body, waiting))
        except SwarmError as error:
            waiting.answer.set_exception(error)
            return
        seconds = time.monotonic() - waiting.sent_at
        self.timings.append(StepTiming(waiting.tokens, seconds, message.times))

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
        elif (waiting := self._waiting.pop(message.step, None)) is not None:
            _settle(waiting.answer, error)
        for later in list(self._waiting.values()):  # chunks behind a failed one begin where nothing is
            _settle(later.answer, error)

    def _break(self, error: SwarmError) -> None:
        self._broken = self._broken or error
        for future in self._opening.values():
            _settle(future, error)
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
            try:
                channel.send(Cancel(self.session_id, self._epoch))
            except SwarmError:
                pass  # a dead hop has nothing to cancel

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
        parts = result.split([piece.row.keep for piece in chunk])
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
