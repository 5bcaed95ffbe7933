"""What a step must be before anything of it touches the engine."""

from __future__ import annotations

from swarm.errors import HopRefused, ProtocolError
from swarm.server.sessions import Session
from swarm.server.work import num_filled
from swarm.wire import Step
from swarm.wire.codecs import body_bytes
from swarm.wire.limits import HASH_BYTES, MAX_HOPS
from swarm.wire.rows import TIMING_BYTES

MAX_STEP_TOKENS = 4096
"""Tokens in one step: clients send chunks of some hundreds; the bound keeps one step's workspace small."""


def check_step(session: Session, message: Step, num_bytes: int, *, context: int, hidden_size: int) -> int:
    """Return the step's tokens; one pass, for it stands between every frame and its computation.

    Args:
        session: Whose it is.
        message: The step.
        num_bytes: Of its body.
        context: Tokens that a sequence may have here.
        hidden_size: Of the model.

    Raises:
        HopRefused: It cannot be run here.
        ProtocolError: It is no step that anybody could run.
    """
    if message.route and message.route[0] != session.next_peer:
        raise HopRefused(f"the session was opened with next hop {session.next_peer or 'none'}, open it again")
    if len(message.times) >= MAX_HOPS * TIMING_BYTES:
        raise HopRefused(f"a step that has passed {MAX_HOPS} hops already")
    rows, tokens, filled = message.rows, 0, 0
    for row in rows:
        tokens += row.length
        filled += num_filled(row)
        if row.keep > row.length:
            raise ProtocolError(f"a row of {row.length} tokens cannot keep {row.keep}")
        if row.position + row.length > context:
            raise HopRefused(f"token {row.position + row.length} is beyond the {context} that a session may have here")
    if tokens > MAX_STEP_TOKENS:
        raise HopRefused(f"a step of more than {MAX_STEP_TOKENS} tokens: send it in chunks")
    if len(rows) > 1 and len({row.sequence for row in rows}) != len(rows):
        raise ProtocolError("a step with two rows for one sequence")
    if message.marks and len(message.marks) != filled * HASH_BYTES:
        raise ProtocolError(f"{len(message.marks) // HASH_BYTES} marks for {filled} pages")
    expected = body_bytes(message.codec, tokens=tokens, hidden_size=hidden_size)
    if num_bytes != expected:
        raise ProtocolError(f"a body of {num_bytes} bytes for {tokens} tokens in {message.codec}: {expected} wanted")
    return tokens
