"""The directory as one part of a simulated swarm sees it: records that appear late and stay until they expire.

A living server refreshes its record at each third of the ttl. Those refreshes are not events of their own: a
record that is being refreshed expires never, and its last expiry is worked out when the server dies or is cut off.
"""

from __future__ import annotations

import heapq
from dataclasses import replace
from itertools import count
from math import floor, inf

from swarm.planning import Outlook
from swarm.types import PeerId, ServerRecord, View

MODEL = "simulated"


class Notices:
    """Records by the time at which others can read them.

    Args:
        num_blocks: Blocks of the model.
        ttl: Seconds that records live.
        grain: Seconds for which one view serves all who look: reading takes about as long in truth.
    """

    def __init__(self, *, num_blocks: int, ttl: float, grain: float) -> None:
        self._num_blocks = num_blocks
        self._ttl = ttl
        self._grain = grain
        self._records: dict[PeerId, ServerRecord] = {}
        self._latest: dict[PeerId, tuple[float, ServerRecord]] = {}
        self._coming: list[tuple[float, int, PeerId, ServerRecord | None]] = []
        self._rank = count()
        self._outlook: Outlook | None = None
        self._view: View | None = None

    def publish(self, record: ServerRecord, *, stored_at: float) -> None:
        """Let `record` be read from `stored_at` on, and be refreshed until `stop_refreshing`."""
        record = replace(record, expires_at=inf)
        self._latest[record.peer] = (stored_at, record)
        self._push(stored_at, record.peer, record)

    def withdraw(self, peer: PeerId, *, stored_at: float) -> None:
        """Let the goodbye of `peer` be read from `stored_at` on."""
        self._latest.pop(peer, None)
        self._push(stored_at, peer, None)

    def amend(self, record: ServerRecord) -> None:
        """Tell with the next refresh what nobody waits for, such as new round trips."""
        if (latest := self._latest.get(record.peer)) is not None:
            record = replace(record, expires_at=inf)
            self._latest[record.peer] = (latest[0], record)
            self._push(latest[0], record.peer, record)

    def stop_refreshing(self, peer: PeerId, now: float) -> None:
        """Let the record of a server that died at `now` expire in its time."""
        if (latest := self._latest.pop(peer, None)) is not None:
            stored_at, record = latest
            third = self._ttl / 3
            expires_at = stored_at + third * max(0, floor((now - stored_at) / third)) + self._ttl
            self._push(max(now, stored_at), peer, replace(record, expires_at=expires_at))
            self._push(expires_at, peer, None)

    def view(self, now: float) -> View:
        """Return what somebody reads now; up to `grain` seconds old."""
        if self._view is None or now - self._view.taken_at >= self._grain:
            self._catch_up(now)
            self._view = View(model=MODEL, records=tuple(self._records.values()), taken_at=now)
            self._outlook = None
        return self._view

    def outlook(self, now: float) -> Outlook:
        """Return the outlook of `view`, made once for all who look."""
        view = self.view(now)
        if self._outlook is None:
            self._outlook = Outlook.of(view, num_blocks=self._num_blocks, ttl=self._ttl)
        return self._outlook

    def _push(self, at: float, peer: PeerId, record: ServerRecord | None) -> None:
        heapq.heappush(self._coming, (at, next(self._rank), peer, record))

    def _catch_up(self, now: float) -> None:
        while self._coming and self._coming[0][0] <= now:
            at, _, peer, record = heapq.heappop(self._coming)
            if record is not None:
                self._records[peer] = record
            elif peer in self._records and (peer not in self._latest or self._records[peer].expires_at <= at):
                del self._records[peer]
