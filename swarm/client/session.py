"""A session: one generation's way through its hops, seen from the client.

Steps go to the first hop and travel on by themselves; the last hop's results come back on our
channel to it. All of this runs on the bridge's loop, but for steps that a stream makes and sends by
itself (`swarm.client.streaming`). A step that fails leaves the session usable: each step says at which
position it begins, so the next one drops whatever half arrived, and forks are made once, however often
a step is tried. A hop that fails is replaced (`swarm.client.mending`), and the step tried again.

Steps count from 1: an Error about step 0 is about the whole session.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial

from swarm.client.config import ClientConfig
from swarm.client.legs import Leg
from swarm.client.opening import Model, Opening, Wanted, open_messages
from swarm.client.steps import Steps
from swarm.client.tries import Tries
from swarm.client.watch import Watch
from swarm.errors import (
    BadResult,
    HopFailed,
    HopLeaving,
    HopLost,
    HopRefused,
    PeerUnreachable,
    SessionLost,
    SwarmError,
    from_code,
)
from swarm.log import get_logger
from swarm.network import Channel
from swarm.types import Hop, PeerId, Span
from swarm.wire import Cancel, Close, Error, Found, Leaving, Message, Opened, Result

logger = get_logger(__name__)


class Session:
    """An open session; made by `Connection.open_session`.

    Attributes:
        legs: The hops of the route.
        session_id: Secret between us and the hops.
        steps: Those under way.
        timings: Recent steps, newest last.
        held: Tokens that a sequence began with, found at every hop, by its number.
        num_mends: How often hops were replaced.
        tries: How often it was tried since the last result.
        takes_marks: Whether pages may be kept to be found again: not once they have come through other hops.
    """

    def __init__(self, legs: Sequence[Leg], model: Model, codec: str, config: ClientConfig) -> None:
        self.legs = tuple(legs)
        self.model = model
        self.config = config
        self.session_id = os.urandom(16)
        self.steps = Steps(self.session_id, self.hops, codec, model.hidden_size)
        self.timings = self.steps.timings
        self.held: dict[int, int] = {}
        self.num_mends = 0
        self.tries = Tries()
        self.takes_marks = True
        self.free_pages: dict[PeerId, int] = {}
        self._joining: tuple[Leg, ...] = ()
        self._opening: Opening | None = None
        self._watch: Watch | None = None
        self._closed: SwarmError | None = None

    @property
    def hops(self) -> tuple[Hop, ...]:
        """The route."""
        return tuple(leg.hop for leg in self.legs)

    @property
    def span(self) -> Span:
        """The blocks that it runs."""
        return Span(self.legs[0].hop.start, self.legs[-1].hop.end)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens, of all sequences, that the session began with because every hop still held them."""
        return sum(self.held.values())

    @property
    def num_results(self) -> int:
        """Results received, one for each step sent, whatever the number of hops."""
        return self.steps.num_results

    @property
    def first_channel(self) -> Channel:
        """Where steps go."""
        return self.legs[0].channel

    @property
    def broken(self) -> SwarmError | None:
        """Why no step can be sent now: the session is closed, or a hop must be replaced first; else None."""
        return self._closed or next((leg.fault for leg in self.legs if leg.fault is not None), None)

    @property
    def is_usable(self) -> bool:
        """Whether it is not closed: hops that are lost can be replaced."""
        return self._closed is None

    @property
    def wants_mending(self) -> bool:
        """Whether a hop is to be replaced before the next step."""
        return any(leg.wants_replacement for leg in self.legs)

    async def open(self, wanted: Sequence[Wanted] = ()) -> None:
        """Open the session at every hop at once.

        Args:
            wanted: What sequences are to begin with, if every hop still holds it; `held` says how much.

        Raises:
            HopUnusable: A hop did not accept, or not in time; close the session then.
        """
        opening = await self._open(self.legs, before=(), after=None, wanted=wanted)
        self.held = opening.held
        for each in wanted:
            body = None if each.body is None else partial(each.body, self.steps.codec, self.held[each.sequence])
            self.steps.outbox.begin(each.sequence, self.held[each.sequence], body)

    async def join(self, legs: Sequence[Leg], start: int, end: int) -> None:
        """Open the session at hops that are to take the place of legs [start, end); then `adopt` them, or `part`.

        Raises:
            HopUnusable: As `open`.
        """
        self._joining = tuple(legs)
        after = self.legs[end] if end < len(self.legs) else None
        await self._open(legs, before=self.legs[:start], after=after, wanted=())

    def adopt(self, start: int, end: int) -> None:
        """Put the hops that have joined in the place of legs [start, end), which are told to forget the session."""
        gone, joined = self.legs[start:end], {leg.channel for leg in self._joining}
        self.legs = (*self.legs[:start], *self._joining, *self.legs[end:])
        self._joining = ()
        self._send_to([leg for leg in gone if leg.channel not in joined], Close(self.session_id))
        self.steps.follow(self.hops)
        self.num_mends += 1
        self.takes_marks = False

    def leave(self, legs: Sequence[Leg]) -> None:
        """Tell hops to forget the session, for they are to open it anew."""
        self._send_to(legs, Close(self.session_id))

    def part(self) -> None:
        """Give up the hops that were joining."""
        self._send_to(self._joining, Close(self.session_id))
        self._joining = ()

    def begin_watch(self, first: int, last: int) -> Watch:
        """Watch the steps numbered so, which others send, until the last has come through."""
        self._watch = Watch(first, last)
        return self._watch

    def close(self, error: SwarmError | None = None) -> None:
        """Tell all hops to forget the session; never waits, never fails.

        A step under way, and each later one, ends with `error`, else with `HopLost`.
        """
        self._closed = self._closed or error or HopLost("the session is closed")
        self._fail(self._closed)
        self._send_to(self.all_legs, Close(self.session_id))

    def give_up_steps(self) -> None:
        """Forget steps under way: a new epoch makes the hops drop those that have not run."""
        self.steps.give_up()
        self._send_to(self.legs, Cancel(self.session_id, self.steps.epoch))

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        """Take a message about this session."""
        leg = self._leg(channel)
        match message:
            case Result():
                self._on_result(channel, message, body)
            case Opened() | Found() if self._opening is not None and leg is not None:
                self._opening.received(channel, leg.hop, message)
            case Leaving() if leg in self.legs and leg is not None:
                self.ask_to_leave([leg])
            case Error() if leg is not None:
                self._on_error(leg, message)
            case _:
                logger.debug("peer %s: unexpected %s", channel.remote, type(message).__name__)

    def lost(self, channel: Channel, reason: Exception | None) -> None:
        """A channel of the route ended: whatever is under way will not come."""
        if (leg := self._leg(channel)) is not None:
            self.lose(leg, HopLost(f"lost hop {leg.hop}: {reason or 'the peer closed the connection'}"))

    def lose(self, leg: Leg, error: SwarmError) -> None:
        """Note that a hop cannot be used any more."""
        leg.fault = leg.fault or error
        if self._opening is not None and self._opening.fail(leg.channel, error):
            return
        self._fail(error)

    def ask_to_leave(self, legs: Iterable[Leg]) -> None:
        """Have hops replaced that serve on until then; what is under way is tried again."""
        for leg in legs:
            leg.is_leaving = True
            self._fail(HopLeaving(f"hop {leg.hop} is to be replaced"))

    def uses(self, channel: Channel) -> bool:
        """Whether `channel` leads to one of the hops."""
        return self._leg(channel) is not None

    def silent_since(self) -> float | None:
        """Return the monotonic time since which something is awaited of the hops; None if nothing is."""
        if self._watch is not None and not self._watch.is_over:
            return self._watch.progress_at
        return self.steps.progress_at if self.steps.num_under_way else None

    @property
    def all_legs(self) -> tuple[Leg, ...]:
        """The hops, and those that are joining."""
        return (*self.legs, *self._joining)

    def route_text(self) -> str:
        """Return the hops for a message."""
        return " -> ".join(str(leg.hop) for leg in self.legs)

    async def _open(
        self, legs: Sequence[Leg], *, before: Sequence[Leg], after: Leg | None, wanted: Sequence[Wanted]
    ) -> Opening:
        messages = open_messages(
            self.session_id,
            [*before, *legs],
            after,
            model=self.model,
            codec=self.steps.codec,
            priority=self.config.priority,
        )
        self._opening = opening = Opening([leg.hop for leg in legs], [leg.channel for leg in legs], wanted)
        try:
            opening.send(self.session_id, messages[len(before) :])
            await opening.wait(self.config.timeouts.open)
        finally:
            self._opening = None
        self.free_pages |= opening.free_pages
        return opening

    def _on_result(self, channel: Channel, message: Result, body: bytearray) -> None:
        if self._watch is not None and self._watch.took(message.step):
            return
        if channel is not self.legs[-1].channel:
            logger.debug("peer %s: a result from a hop that is not the last", channel.remote)
            return
        waiting = self.steps.take(message)
        if waiting is not None:
            self.tries.progressed()
            waiting.taker.took(waiting, message, body)

    def _on_error(self, leg: Leg, message: Error) -> None:
        error = from_code(message.code, f"hop {leg.hop}: {message.text}", retry_after=message.retry_after)
        if self._opening is not None and not message.step and self._opening.fail(leg.channel, error):
            return
        if self._watch is not None and self._watch.failed(message.step, leg, error):
            return
        if self.steps.concerns(message.step):
            self._blame(leg, error)
            self.steps.fail(error, step=message.step)

    def _blame(self, leg: Leg, error: SwarmError) -> None:
        """Note whom an error speaks of: who says so, the hop before him, or the link to the one behind him."""
        if isinstance(error, HopLost | PeerUnreachable):
            leg.link_faults += 1
        elif isinstance(error, SessionLost | HopFailed | HopRefused):
            leg.fault = leg.fault or error
        elif isinstance(error, BadResult) and leg in self.legs and (index := self.legs.index(leg)):
            self.legs[index - 1].fault = error

    def _fail(self, error: SwarmError) -> None:
        if self._watch is not None:
            self._watch.fail(error)
        self.steps.fail(error)

    def _send_to(self, legs: Sequence[Leg], message: Message) -> None:
        for leg in legs:
            with suppress(SwarmError):  # else the hop's half ended with its channel
                leg.channel.send(message)

    def _leg(self, channel: Channel) -> Leg | None:
        return next((leg for leg in (*self._joining, *self.legs) if leg.channel is channel), None)
