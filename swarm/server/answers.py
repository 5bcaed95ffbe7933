"""Answers: what becomes of works that are done, on their way to the next hop or back to the client.

The compute thread packs the outputs of a batch and sends them, all that go the same way in one piece: waking the event
loop for each would cost a tenth of a millisecond. What has to wait, fail or be dialled goes through the loop, and
nothing overtakes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from swarm.errors import SwarmError
from swarm.log import get_logger
from swarm.network import Channel
from swarm.server.links import Links
from swarm.server.tally import Tally
from swarm.server.work import Work
from swarm.types import PeerId
from swarm.wire import Message, Prepared, Result, Step, Timing
from swarm.wire.encoding import error_of

logger = get_logger(__name__)

Frame = tuple[Message, memoryview]


class Answers:
    """Sends works' outputs over links and channels."""

    def __init__(self, links: Links, tally: Tally) -> None:
        self._links = links
        self._tally = tally
        self._loop = asyncio.get_running_loop()

    def deliver(self, works: Sequence[Work]) -> None:
        """Send what is done; called on the compute thread."""
        ways: dict[Channel | PeerId, list[tuple[Work, Frame | None]]] = {}
        left: list[tuple[Work, Frame | None]] = []
        for work in works:
            session = work.owner
            if work.error is not None or session.num_left != session.num_finished:
                left.append((work, None if work.answer is None else _packed(work)))
            elif work.answer is None:
                session.num_sent_now += 1  # stale: nobody waits for it
            else:
                way = session.next_peer if work.step.route else session.owner
                ways.setdefault(way, []).append((work, _packed(work)))
        for way, lot in ways.items():
            if self._try_send_now(way, [frame for _, frame in lot if frame is not None]):
                for work, _ in lot:
                    work.owner.num_sent_now += 1
            else:
                left += lot
        if left:
            for work, _ in left:
                work.owner.num_left += 1
            self._loop.call_soon_threadsafe(self._finish, left)

    def _try_send_now(self, way: Channel | PeerId, frames: Sequence[Frame]) -> bool:
        if isinstance(way, str):
            return self._links.try_send_now(way, frames)
        return way.try_send_now(frames)

    def _finish(self, left: Sequence[tuple[Work, Frame | None]]) -> None:
        """On the loop: send what the compute thread could not, and tell clients of errors."""
        for work, frame in left:
            session, error = work.owner, work.error
            if error is None and frame is not None:
                error = self._send(work, *frame)
            if error is not None:
                self._tell_failed(work, error)
            session.num_finished += 1  # not before: the compute thread may overtake from now on

    def _send(self, work: Work, message: Message, body: memoryview) -> SwarmError | None:
        session = work.owner
        try:
            if work.step.route:
                failed = lambda error: self._tell_failed(work, error)  # noqa: E731 - one line, used once
                self._links.send(session.next_peer, session.next_addrs, message, body, failed)
            else:
                session.owner.send(message, body)
        except SwarmError as unsent:
            return unsent
        return None

    def _tell_failed(self, work: Work, error: SwarmError) -> None:
        """Tell the client of a step that failed."""
        self._tally.failed(error)
        send(work.owner.owner, error_of(error, session=work.step.session, step=work.step.step))


def prepare(work: Work) -> Prepared:
    """Encode what of the answer is known before the output is, on the loop while the step is computed."""
    step, codec = work.step, work.owner.codec
    message: Step | Result
    if step.route:
        message = Step(step.session, step.step, step.epoch, codec, step.rows, step.route[1:], step.marks)
    else:
        message = Result(step.session, step.step, codec, sum(row.keep for row in step.rows))
    work.prepared = Prepared.of(message)
    return work.prepared


def send(channel: Channel, message: Message) -> None:
    """Send, unless the receiver has gone: then its sessions end by `closed` anyway."""
    try:
        channel.send(message)
    except SwarmError as error:
        logger.debug("peer %s: could not send %s: %s", channel.remote, type(message).__name__, error)


def _packed(work: Work) -> Frame:
    """Return the answer behind its header, with the times."""
    assert work.answer is not None
    prepared = work.prepared or prepare(work)
    now = time.monotonic()
    seconds = (work.started_at - work.arrived_at, work.ended_at - work.started_at, now - work.arrived_at)
    return prepared.with_times(work.step.times + Timing(*(round(1e6 * each) for each in seconds)).packed()), work.answer
