"""What sessions have sent on: sent again when a client asks, given up when it takes too much memory."""

from __future__ import annotations

from collections.abc import Iterable

from swarm.errors import ProtocolError, SessionLost
from swarm.log import get_logger
from swarm.server.sessions import Session
from swarm.server.work import Work
from swarm.wire import Held, Replay, Row, Step
from swarm.wire.outbox import OutboxLost
from swarm.wire.rows import TRY_BITS

logger = get_logger(__name__)

MAX_OUTBOX_BYTES = 512 * 1024 * 1024
"""Of all sessions together. A token takes a few kilobytes, a fifth or less of its keys and values."""

LOOK_EVERY = 16
"""The memory is added up whenever so many-th of it has come anew."""


class OutboxBudget:
    """Sees to it that outboxes do not take too much memory; for the compute thread."""

    def __init__(self, max_bytes: int = MAX_OUTBOX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._new_bytes = 0

    def added(self, num_bytes: int, sessions: Iterable[Session]) -> None:
        """Note that so much was added; if need be let the largest of the sessions' outboxes be given up."""
        self._new_bytes += num_bytes
        if self._new_bytes * LOOK_EVERY < self._max_bytes:
            return
        self._new_bytes = 0
        sizes = {session: size_of([session]) for session in sessions}
        total = sum(sizes.values())
        for session in sorted(sizes, key=lambda session: sizes[session], reverse=True):
            if total * (LOOK_EVERY + 1) <= self._max_bytes * LOOK_EVERY:
                break
            logger.info("session %s: its outbox of %d MiB is given up", session.name, sizes[session] >> 20)
            session.outbox.give_up()
            total -= sizes[session]


def size_of(sessions: Iterable[Session]) -> int:
    """Return the bytes that outboxes hold; what sequences share counts once."""
    bodies = {id(body): len(body) for session in sessions for body in session.outbox.bodies()}
    return sum(bodies.values())


def replayed(session: Session, message: Replay) -> list[Work]:
    """Return what a client wants to be sent again, as works that are done; at least one.

    Raises:
        SessionLost: Not all of it is held.
        ProtocolError: There are more steps than numbers for them.
    """
    try:
        steps = session.outbox.replay(message.rows, before=message.before, chunk_tokens=message.chunk_tokens)
    except OutboxLost as error:
        raise SessionLost(f"what was sent on is not held here any more: {error}") from error
    if not steps:
        first = message.rows[0] if message.rows else Held(0, 0)
        steps = [(Row(first.sequence, first.sequence, 0, 0, 0), b"")]
    numbers = [message.first + (index << TRY_BITS) for index in range(len(steps) - 1)] + [message.last]
    if len(numbers) > 1 and numbers[-2] >= message.last:
        raise ProtocolError(f"numbers for {(message.last - message.first >> TRY_BITS) + 1} steps, not {len(steps)}")
    route = (message.next_peer, *message.route)
    works = []
    for number, (row, body) in zip(numbers, steps, strict=True):
        step = Step(session.session_id, number, message.epoch, session.codec, (row,), route)
        work = Work.of(session, step, bytearray(), tokens=row.length, arrived_at=session.last_step_at)
        work.started_at = work.ended_at = session.last_step_at
        work.answer = memoryview(body)
        works.append(work)
    return works
