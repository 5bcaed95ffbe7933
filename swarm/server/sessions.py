"""The server's half of sessions: who opened them, which sequences they hold.

A session belongs to the channel that opened it and ends with it. Its sequences live in the KV
cache, which the compute thread alone touches: this table holds references, never page numbers. Of the
counts of steps each is written by one thread only.

Pages are found again within one client, one span and one lineage: all that decides about their numbers, and about who
may know that they are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from swarm.blocks import PageTable
from swarm.errors import Busy, HopRefused, SessionLost
from swarm.network import Channel
from swarm.types import PeerId, Span
from swarm.wire.outbox import Outbox

ENDED = 1 << 63
"""An epoch beyond all that can be sent."""


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One client's generation on this server.

    Attributes:
        session_id: Random, secret between the client and its hops.
        owner: The client's channel: results, errors and the session's end go there.
        client: The peer behind it.
        span: The blocks that this session's route uses here, within those served.
        codec: How outputs travel, to the next hop and to the client.
        next_peer: The hop after us, empty at the last one.
        next_addrs: Where to dial it.
        num_hops: Of the whole route.
        priority: Among the client's sessions; 0 is served first.
        lineage: See `Open`; None if its pages are not to be found again.
        opened_at: Monotonic time.
        sequences: By number; touched by the compute thread only.
        outbox: What was sent on to the next hop; the compute thread's, too.
        epoch: Steps of an older epoch are stale.
        num_received: Steps received.
        num_replays: How often its outbox was sent again.
        num_replayed: Steps that were made for that.
        num_sent_now: Of them, answered by the compute thread.
        num_left: Of them, those whose answer the compute thread left to the loop.
        num_finished: Of those left, the ones that the loop has answered.
        bytes_received: Of activations, in its steps.
        bytes_done: Of them, in steps that have run.
        num_finding: Look-ups that are not yet answered.
        last_step_at: Monotonic time of the last step's arrival.
    """

    session_id: bytes
    owner: Channel
    client: PeerId
    span: Span
    codec: str
    next_peer: PeerId
    next_addrs: tuple[str, ...]
    num_hops: int = 1
    priority: int = 0
    lineage: bytes | None = None
    opened_at: float = 0.0
    sequences: dict[int, PageTable] = field(default_factory=dict)
    outbox: Outbox = field(default_factory=Outbox)
    epoch: int = 0
    num_received: int = 0
    num_replays: int = 0
    num_replayed: int = 0
    num_sent_now: int = 0
    num_left: int = 0
    num_finished: int = 0
    bytes_received: int = 0
    bytes_done: int = 0
    num_finding: int = 0
    last_step_at: float = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether it has ended: everything that still is under way is stale."""
        return self.epoch >= ENDED

    def end(self) -> None:
        """Make everything stale that is under way."""
        self.epoch = ENDED

    @property
    def steps_waiting(self) -> int:
        """Steps received and not yet answered."""
        return self.num_received + self.num_replayed - self.num_sent_now - self.num_finished

    def keys(self, hashes: Sequence[bytes]) -> list[bytes]:
        """Return under what pages of these hashes are kept."""
        place = f"{self.client} {self.span}".encode()
        space = hashlib.blake2b(place + (self.lineage or b""), digest_size=16).digest()
        return [space + value for value in hashes]

    @property
    def name(self) -> str:
        """The first bytes of the id, for logs: the whole is a secret."""
        return self.session_id[:4].hex()


class SessionTable:
    """All open sessions, by id and by the channel that owns them."""

    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._by_id: dict[bytes, Session] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._by_id.values()))

    def add(self, session: Session) -> None:
        """Enter a new session.

        Raises:
            HopRefused: The id is in use, by another client or by this one.
            Busy: `--max-sessions` are open, or half as many of this client.
        """
        if session.session_id in self._by_id:
            raise HopRefused("a session with this id is open already")
        if len(self._by_id) >= self._max_sessions:
            raise Busy(f"{self._max_sessions} sessions are open here, no more are taken", retry_after=5.0)
        own = sum(other.client == session.client for other in self._by_id.values())
        if own >= max(1, self._max_sessions // 2):
            raise Busy(f"{own} of the {self._max_sessions} sessions that are taken here are yours", retry_after=5.0)
        self._by_id[session.session_id] = session

    def get(self, session_id: bytes) -> Session:
        """Return an open session.

        Raises:
            SessionLost: There is none with this id.
        """
        session = self._by_id.get(session_id)
        if session is None:
            raise SessionLost(f"session {session_id[:4].hex()} is not open here")
        return session

    def owner_of(self, session_id: bytes) -> Channel | None:
        """Return the channel that opened a session; None if there is no such session."""
        session = self._by_id.get(session_id)
        return None if session is None else session.owner

    def waiting_of(self, client: PeerId) -> tuple[int, int]:
        """Return how many steps, and bytes of activations, of one client wait."""
        own = [session for session in self._by_id.values() if session.client == client]
        steps = sum(session.steps_waiting for session in own)
        return steps, sum(session.bytes_received - session.bytes_done for session in own)

    def remove(self, session_id: bytes) -> Session | None:
        """Forget a session, if it is there, and return it."""
        return self._by_id.pop(session_id, None)

    def remove_owned(self, owner: Channel) -> list[Session]:
        """Forget and return all sessions that `owner` opened."""
        owned = [session for session in self._by_id.values() if session.owner is owner]
        for session in owned:
            del self._by_id[session.session_id]
        return owned
