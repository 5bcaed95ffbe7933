"""A session: one generation's way through its hops, seen from the client.

Steps go to the first hop and travel on by themselves; the last hop's results come back on our
channel to it. All of this runs on the bridge's loop, but for steps that a stream makes and sends by
itself (`swarm.client.streaming`). A step that fails leaves the session usable: each step says at which
position it begins, so the next one drops whatever half arrived. Only forks cannot be repeated: whether
the hops made them is unknown then (see `RemoteCache`).

Steps count from 1: an Error about step 0 is about the whole session.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from swarm.client.chunks import Piece, marks_of, split_rows
from swarm.client.config import ClientConfig
from swarm.client.opening import Model, Opening, Wanted, open_messages
from swarm.client.steps import MAX_AHEAD, Steps, Waiting
from swarm.errors import HopLost, HopTimeout, SessionLost, SwarmError, from_code
from swarm.log import get_logger
from swarm.network import Channel
from swarm.types import Hop, PeerId
from swarm.wire import Cancel, Close, Error, Found, Message, Opened, Result, Row
from swarm.wire.codecs import encode_tensor

logger = get_logger(__name__)


class Session:
    """An open session; made by `Connection.open_session`.

    Attributes:
        hops: The route.
        session_id: Secret between us and the hops.
        steps: Those under way.
        timings: Recent steps, newest last.
        held: Tokens that a sequence began with, found at every hop, by its number.
    """

    def __init__(
        self, hops: Sequence[Hop], channels: Sequence[Channel], model: Model, codec: str, config: ClientConfig
    ) -> None:
        self.hops = tuple(hops)
        self.session_id = os.urandom(16)
        self.steps = Steps(self.session_id, self.hops, codec, model.hidden_size)
        self.timings = self.steps.timings
        self.held: dict[int, int] = {}
        self._channels = tuple(channels)
        self._model = model
        self._config = config
        self._opening: Opening | None = None
        self._broken: SwarmError | None = None

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens, of all sequences, that the session began with because every hop still held them."""
        return sum(self.held.values())

    @property
    def num_results(self) -> int:
        """Results received, one for each step sent, whatever the number of hops."""
        return self.steps.num_results

    @property
    def free_pages(self) -> dict[PeerId, int]:
        """KV pages that each hop had free when it opened the session."""
        return {} if self._opening is None else self._opening.free_pages

    @property
    def first_channel(self) -> Channel:
        """Where steps go."""
        return self._channels[0]

    @property
    def broken(self) -> SwarmError | None:
        """Why nothing can be done with the session any more: a hop is lost, or it is closed; else None."""
        return self._broken

    @property
    def is_usable(self) -> bool:
        """Whether no hop is lost and the session is not closed."""
        return self._broken is None

    async def open(self, addrs: Sequence[tuple[str, ...]], wanted: Sequence[Wanted] = ()) -> None:
        """Open the session at every hop at once.

        Args:
            addrs: The hops' own, for the hop before each.
            wanted: What sequences are to begin with, if every hop still holds it; `held` says how much.

        Raises:
            HopUnusable: A hop did not accept, or not in time; close the session then.
        """
        messages = open_messages(
            self.session_id,
            self.hops,
            addrs,
            model=self._model,
            codec=self.steps.codec,
            priority=self._config.priority,
        )
        self._opening = Opening(self.hops, self._channels, wanted)
        self._opening.send(self.session_id, messages)
        await self._opening.wait(self._config.timeouts.open)
        self.held = self._opening.held

    async def step(
        self, rows: Sequence[Row], hidden: Tensor, hashes: Sequence[Sequence[bytes]] | None = None
    ) -> Tensor:
        """Run the rows' tokens through all hops.

        Args:
            rows: What each sequence does; see `swarm.wire.Row`.
            hidden: (T, D) the rows' tokens one after another.
            hashes: For each row those of all its pages that are full then, so that they are found again; see
                `swarm.client.prefixes`.

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
        sent: list[_Answer] = []
        results: list[Tensor] = []
        try:
            for chunk in chunks:
                if len(sent) - len(results) >= MAX_AHEAD:
                    results.append(await self._result(sent[len(results)]))
                sent.append(self._send(chunk, hidden, hashes))
            results += [await self._result(answer) for answer in sent[len(results) :]]
        except BaseException:
            self._abandon(sent)
            raise
        return _by_row(chunks, results)

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
            case Opened() | Found() if self._opening is not None and (hop := self._hop(channel)) is not None:
                self._opening.received(channel, hop, message)
            case Error():
                self._on_error(channel, message)
            case _:
                logger.debug("peer %s: unexpected %s", channel.remote, type(message).__name__)

    def lost(self, channel: Channel, reason: Exception | None) -> None:
        """A channel of the route ended: whatever is under way will not come."""
        hop = self._hop(channel)
        if hop is not None:
            error = HopLost(f"lost hop {hop}: {reason or 'the peer closed the connection'}")
            if self._opening is not None:
                self._opening.fail(channel, error)
            self._break(error)

    def uses(self, channel: Channel) -> bool:
        """Whether `channel` leads to one of the hops."""
        return channel in self._channels

    def route_text(self) -> str:
        """Return the hops for a message."""
        return " -> ".join(str(hop) for hop in self.hops)

    def _send(self, chunk: list[Piece], hidden: Tensor, hashes: Sequence[Sequence[bytes]] | None) -> _Answer:
        parts = [hidden[piece.start : piece.end] for piece in chunk]
        tokens = parts[0] if len(parts) == 1 else torch.cat(parts)
        rows = tuple(piece.row for piece in chunk)
        marks = b"" if hashes is None else marks_of(rows, [hashes[piece.index] for piece in chunk])
        answer = _Answer(self.steps)
        message, _ = self.steps.make(rows, answer, marks=marks)
        self._channels[0].send(message, encode_tensor(tokens, self.steps.codec))
        return answer

    async def _result(self, answer: _Answer) -> Tensor:
        timeout = self._config.timeouts.step
        try:
            return await asyncio.wait_for(answer.future, timeout)
        except TimeoutError:
            raise HopTimeout(f"no result from {self.route_text()} within {timeout:.0f} s") from None

    def _on_result(self, channel: Channel, message: Result, body: bytearray) -> None:
        if channel is not self._channels[-1]:
            logger.debug("peer %s: a result from a hop that is not the last", channel.remote)
            return
        waiting = self.steps.take(message)
        if waiting is not None:
            waiting.taker.took(waiting, message, body)

    def _on_error(self, channel: Channel, message: Error) -> None:
        hop = self._hop(channel)
        error = from_code(message.code, f"hop {hop}: {message.text}", retry_after=message.retry_after)
        if hop is not None and self._opening is not None and self._opening.fail(channel, error):
            return
        if isinstance(error, SessionLost) and hop is not None and self.steps.concerns(message.step):
            self._break(error)  # it must be opened again: whoever looks before the next step sees that
        else:
            self.steps.fail(error, step=message.step)

    def _break(self, error: SwarmError) -> None:
        self._broken = self._broken or error
        self.steps.fail(error)

    def _abandon(self, sent: list[_Answer]) -> None:
        """Forget steps under way: a new epoch makes the hops drop those that have not run."""
        self.steps.give_up()
        for answer in sent:
            if answer.future.done() and not answer.future.cancelled():
                answer.future.exception()  # seen
        for channel in self._channels:
            with suppress(SwarmError):  # a dead hop has nothing to cancel
                channel.send(Cancel(self.session_id, self.steps.epoch))

    def _hop(self, channel: Channel) -> Hop | None:
        return next((hop for hop, own in zip(self.hops, self._channels, strict=True) if own is channel), None)


class _Answer:
    """Takes a step's result for a coroutine that awaits it."""

    def __init__(self, steps: Steps) -> None:
        self.future: asyncio.Future[Tensor] = asyncio.get_running_loop().create_future()
        self._steps = steps

    def took(self, waiting: Waiting, result: Result, body: bytearray) -> None:
        if self.future.done():
            return
        try:
            self.future.set_result(self._steps.check(result, body, waiting))
        except SwarmError as error:
            self.future.set_exception(error)

    def failed(self, error: SwarmError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


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
