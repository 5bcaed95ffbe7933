"""The legs of a session's way: each hop, with our channel to it and where others can dial it."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.errors import SwarmError
from swarm.network import Channel
from swarm.types import Hop, PeerId, ServerRecord


@dataclass(slots=True, eq=False)
class Leg:
    """One hop of one session.

    Attributes:
        hop: Its blocks, and who runs them.
        channel: Ours to it.
        addrs: Where the hop before can dial it.
        numerics: What decides about last bits: dtype, quant and kernel; empty if not known.
        fault: Why it must be replaced; None while it serves.
        is_leaving: Whether it asked to be replaced, and serves until then.
        link_faults: How often the link from it to the next hop has failed since the last result.
    """

    hop: Hop
    channel: Channel
    addrs: tuple[str, ...]
    numerics: str = ""
    fault: SwarmError | None = None
    is_leaving: bool = False
    link_faults: int = 0

    @property
    def peer(self) -> PeerId:
        """Who runs it."""
        return self.hop.peer

    @property
    def wants_replacement(self) -> bool:
        """Whether another should take its place."""
        return self.fault is not None or self.is_leaving


def numerics_of(record: ServerRecord) -> str:
    """Return what decides about the last bits of a server's numbers."""
    return f"{record.dtype} {record.quant} {record.kernel}"
