"""Putting new hops into a session's way, and having them hold what the lost ones held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from swarm.client.legs import Leg
from swarm.client.opening import HopUnusable
from swarm.client.session import Session
from swarm.client.watch import ReplayFailed, Watch
from swarm.errors import HopLost, HopTimeout, PeerUnreachable, SessionLost, SwarmError
from swarm.log import get_logger
from swarm.wire import Held, Replay, Row, Step
from swarm.wire.outbox import OutboxLost
from swarm.wire.rows import TRY_BITS

logger = get_logger(__name__)


class Pending(NamedTuple):
    """The step that is to be tried again: its rows, and the number of its last try; 0 if there was none."""

    rows: tuple[Row, ...] = ()
    number: int = 0


async def splice(session: Session, start: int, end: int, legs: Sequence[Leg], pending: Pending) -> None:
    """Let `legs` run the blocks of legs [start, end) from now on.

    Raises:
        HopUnusable: One of the new hops is of no use; nothing has changed, and others can be tried.
        SwarmError: Another hop of the session was lost meanwhile; nothing has changed.
    """
    again = [old for old in session.legs[start:end] if any(old.channel is new.channel for new in legs)]
    session.leave(again)
    try:
        await session.join(legs, start, end)
        await _bring_up(session, start, legs, pending)
    except BaseException:
        session.part()
        for old in again:  # they have forgotten it, and may have begun anew
            old.fault = old.fault or SessionLost(f"hop {old.hop} was to begin anew")
        raise
    session.adopt(start, end)


async def _bring_up(session: Session, start: int, legs: Sequence[Leg], pending: Pending) -> None:
    wanted = session.steps.outbox.held_before(pending.rows)
    before = pending.number or session.steps.next_number
    if start:
        try:
            return await _ask_replay(session, start, legs, wanted, before)
        except ReplayFailed as failed:
            if failed.leg is not session.legs[start - 1] or not isinstance(failed.error, SessionLost):
                raise _unusable(failed, legs) from failed
        logger.info("hop %s does not hold what it has sent any more: we send it", session.legs[start - 1].hop)
    try:
        if start:
            await _ask_replay(session, start, legs, (), before)
        await _replay(session, [*session.legs[:start], *legs], wanted, before)
    except ReplayFailed as failed:
        if failed.leg in session.legs and isinstance(failed.error, SessionLost):
            session.lose(failed.leg, failed.error)
            raise failed.error from failed
        raise _unusable(failed, legs) from failed


async def _ask_replay(session: Session, start: int, legs: Sequence[Leg], wanted: Sequence[Held], before: int) -> None:
    """Have the hop before the new ones send again what it sent; without `wanted` it only learns who is next."""
    chunk_tokens = session.config.chunk_tokens
    first, last = session.steps.reserve(_num_steps(wanted, chunk_tokens))
    message = Replay(
        session.session_id,
        session.steps.epoch,
        before,
        first,
        last,
        legs[0].peer,
        legs[0].addrs,
        tuple(leg.peer for leg in legs[1:]),
        tuple(wanted),
        chunk_tokens,
    )
    watch = session.begin_watch(first, last)
    try:
        session.legs[start - 1].channel.send(message)
    except SwarmError as error:
        session.lose(session.legs[start - 1], error)
        raise
    await _wait(session, watch, legs)


async def _replay(session: Session, chain: Sequence[Leg], wanted: Sequence[Held], before: int) -> None:
    """Send again what we sent, through hops of which some hold it already: they drop that, and compute it anew."""
    steps = session.steps
    try:
        made = steps.outbox.replay(wanted, before=before, chunk_tokens=session.config.chunk_tokens)
    except OutboxLost as error:
        raise SessionLost(f"what this session has sent is not known any more: {error}") from error
    if not made:
        return
    first, last = steps.reserve(len(made))
    watch = session.begin_watch(first, last)
    route = tuple(leg.peer for leg in chain[1:])
    for index, (row, body) in enumerate(made):
        step = Step(session.session_id, first + (index << TRY_BITS), steps.epoch, steps.codec, (row,), route)
        try:
            chain[0].channel.send(step, body)
        except SwarmError as error:
            session.lose(chain[0], error)
            raise
    await _wait(session, watch, chain)


async def _wait(session: Session, watch: Watch, legs: Sequence[Leg]) -> None:
    timeout = session.config.timeouts.step
    try:
        await watch.wait(timeout)
    except TimeoutError:
        raise HopUnusable(legs[-1].peer, HopTimeout(f"no end of a replay within {timeout:.0f} s")) from None
    except SwarmError as error:
        for leg in legs:
            if leg not in session.legs and leg.fault is not None:
                raise HopUnusable(leg.peer, leg.fault) from error
        raise


def _unusable(failed: ReplayFailed, legs: Sequence[Leg]) -> HopUnusable:
    """Return who is to blame for a replay that failed: of two hops whose link fails, the second."""
    peers = [leg.peer for leg in legs]
    index = peers.index(failed.leg.peer) if failed.leg.peer in peers else -1
    if index < 0 or (isinstance(failed.error, HopLost | PeerUnreachable) and index + 1 < len(peers)):
        index += 1
    return HopUnusable(peers[index], failed.error)


def _num_steps(wanted: Sequence[Held], chunk_tokens: int) -> int:
    """Return how many steps a replay takes at most."""
    return 1 + sum(1 + held.tokens // chunk_tokens for held in wanted)
