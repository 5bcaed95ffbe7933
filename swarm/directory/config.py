"""Every deadline, interval and bound of the directory."""

from __future__ import annotations

from dataclasses import dataclass

MAX_AHEAD = 600.0
"""Seconds: what expires later than this from now is refused, so that nothing stays for long that nobody refreshes."""

NUM_REPLICAS = 5
"""Peers that keep a copy of each record; a record survives four of them leaving between two refreshes."""

MAX_REGISTRY_ENTRIES = 8
"""Servers that list one model in the registry; more would only make a hot key larger."""

MAX_MODELS = 64
"""Models that one listing looks up; anybody may enter names, and each costs a search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Deadlines and intervals in seconds, each with its reason.

    Attributes:
        join: For all initial peers together at the start; dead ones cost this much at most.
        patience: For the first of the initial peers, before members met earlier are asked as well.
        join_grace: After the first initial peer answered, how long the others may still take.
        call: For one call to one node of the DHT; a hung one costs this once, then it is left out for a while.
        get: For a whole search: three hung nodes on the way still leave room.
        store: For storing one record at all replicas.
        retry_first: First pause while nobody is there; each next one is twice as long.
        retry_most: The longest such pause: a peer that comes up is found within it. A try at a dead
            address costs one TCP packet, so it need not be longer.
        recheck: Once connected, how often initial peers that we lost are tried again; parts of a
            swarm that were apart grow together that way.
        close: For the goodbye to the daemon at the end.
    """

    join: float = 3.0
    patience: float = 0.7
    join_grace: float = 0.3
    call: float = 3.0
    get: float = 10.0
    store: float = 10.0
    retry_first: float = 1.0
    retry_most: float = 8.0
    recheck: float = 15.0
    close: float = 0.5
