"""The truth about a simulated swarm, kept while it lives: who serves which blocks, for how long, how fast.

Two sides: the main one, where the clients are, and the region that may be cut off.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from swarm.simulator.servers import SimulatedServer
from swarm.types import PeerId, Span


@dataclass(slots=True)
class Side:
    """One side of the swarm.

    Attributes:
        counts: Servers of each block that sessions can use now.
        speeds: Tokens/s of each block.
        num_bare: Blocks without a server.
        num_alive: Servers, those that load or move included.
        total_size: Blocks that they could hold together.
        total_speed: Tokens/s through one block of all of them.
        seconds: Time so far in which they could hold all blocks.
        covered_seconds: Of it, time in which they did.
        server_seconds: Time that servers spent alive.
    """

    counts: list[int]
    speeds: list[float]
    num_bare: int
    num_alive: int = 0
    total_size: int = 0
    total_speed: float = 0.0
    seconds: float = 0.0
    covered_seconds: float = 0.0
    server_seconds: float = 0.0

    @property
    def bottleneck(self) -> float:
        """Tokens/s of the weakest block."""
        return 0.0 if self.num_bare else min(self.speeds)

    @property
    def is_able(self) -> bool:
        """Whether its servers together could hold all blocks."""
        return self.total_size >= len(self.counts)

    def pass_time(self, seconds: float) -> None:
        """Book what was true for the last `seconds`."""
        self.server_seconds += self.num_alive * seconds
        if self.is_able:
            self.seconds += seconds
            self.covered_seconds += 0.0 if self.num_bare else seconds

    def enter(self, server: SimulatedServer, sign: int = 1) -> None:
        """Count a server; -1 counts it no more."""
        self.num_alive += sign
        self.total_size += sign * server.machine.size
        self.total_speed += sign * server.machine.speed

    def serve(self, span: Span, speed: float, sign: int = 1) -> None:
        """Let a server serve `span`; -1 ends that."""
        share = sign * speed / len(span)
        for block in range(span.start, span.end):
            was = self.counts[block]
            self.counts[block] = count = was + sign
            self.speeds[block] = self.speeds[block] + share if count else 0.0
            self.num_bare += (count == 0) - (was == 0)


@dataclass(slots=True)
class Ledger:
    """What was seen.

    Attributes:
        num_blocks: Blocks of the model.
        sides: The main one and the one that may be cut off.
        alive: The servers alive, in no order.
        num_looks: Looks that servers took at the directory.
        records_read: Records that those looks brought.
        num_announced: Records that changed; refreshes are not among them.
        num_wished: Wishes to move that were announced.
        moved_at: Seconds since the beginning of each move.
        num_uncovering: Moves that left a block without any server while all blocks had one.
        num_desperate: Moves that did so while another block had none either.
    """

    num_blocks: int
    sides: tuple[Side, Side] = field(init=False)
    alive: list[SimulatedServer] = field(default_factory=list)
    num_looks: int = 0
    records_read: int = 0
    num_announced: int = 0
    num_wished: int = 0
    moved_at: list[float] = field(default_factory=list)
    num_uncovering: int = 0
    num_desperate: int = 0
    _serving: dict[PeerId, tuple[Side, Span]] = field(default_factory=dict)
    _position: dict[PeerId, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = self.num_blocks
        self.sides = (Side([0] * n, [0.0] * n, n), Side([0] * n, [0.0] * n, n))

    @property
    def main(self) -> Side:
        """The side on which the clients are."""
        return self.sides[0]

    def pass_time(self, seconds: float) -> None:
        """Book what was true for the last `seconds`."""
        for side in self.sides:
            side.pass_time(seconds)

    def came(self, server: SimulatedServer) -> None:
        """Book a new server."""
        self.sides[server.is_cut].enter(server)
        self._position[server.peer] = len(self.alive)
        self.alive.append(server)

    def gone(self, server: SimulatedServer) -> None:
        """Book that a server is no more."""
        self._unserve(server)
        self.sides[server.is_cut].enter(server, -1)
        position, last = self._position.pop(server.peer), self.alive.pop()
        if last is not server:
            self.alive[position] = last
            self._position[last.peer] = position

    def serves(self, server: SimulatedServer) -> None:
        """Book what a server serves now."""
        self._unserve(server)
        if server.serving is not None:
            side = self.sides[server.is_cut]
            side.serve(server.serving, server.machine.speed)
            self._serving[server.peer] = (side, server.serving)

    def moved(self, seconds: float, server: SimulatedServer) -> None:
        """Book that a server has left its span for another."""
        self.moved_at.append(seconds)
        side, span = self.sides[server.is_cut], server.record.span
        if num_opened := side.counts[span.start : span.end].count(0):
            self.num_uncovering += side.num_bare == num_opened
            self.num_desperate += side.num_bare > num_opened

    def change_sides(self, server: SimulatedServer) -> None:
        """Book that a server, whose `is_cut` was just changed, is on the other side now."""
        self.sides[not server.is_cut].enter(server, -1)
        self.sides[server.is_cut].enter(server)
        self.serves(server)

    def _unserve(self, server: SimulatedServer) -> None:
        if (served := self._serving.pop(server.peer, None)) is not None:
            side, span = served
            side.serve(span, server.machine.speed, -1)
