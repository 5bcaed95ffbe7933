"""The simulated world: a heap of events, the servers, the directory as each side of it sees it.

What happens to a server is decided by its `Placer`, which is the code of real servers; the world only tells it
what the directory shows, lets time pass, and keeps books in `Ledger`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from random import Random

from swarm.planning import Act, Decision
from swarm.planning.outlook import Levels
from swarm.planning.placement import neediest
from swarm.simulator.config import SimulatorConfig
from swarm.simulator.ledger import Ledger
from swarm.simulator.links import Place
from swarm.simulator.notices import Notices
from swarm.simulator.servers import ASKED, Machine, SimulatedServer
from swarm.types import PeerId, ServerState, View

BEGINNING = 1e9
"""Unix time at which simulated time begins."""

STORING = (0.3, 1.5)
"""Seconds that the directory takes to store a record at all replicas."""

CRASHES = 0.5
"""Share of those who leave without a goodbye."""

DRAINING = (1.0, 10.0)
"""Seconds until the sessions are handed over."""

CUT_OFF = "US East"
"""The region that is cut off."""

Event = Callable[[], None]


class World:
    """One simulated swarm.

    Attributes:
        now: Unix time.
        servers: Those alive, by peer id.
        ledger: What was seen.
    """

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.now = BEGINNING
        self.servers: dict[PeerId, SimulatedServer] = {}
        self.ledger = Ledger(config.blocks)
        self.chance = Random(config.seed)
        grain = 1.0 if config.servers <= 3000 else 3.0
        self._main = Notices(num_blocks=config.blocks, ttl=config.ttl, grain=grain)
        self._cut = Notices(num_blocks=config.blocks, ttl=config.ttl, grain=grain)
        self._is_parted = False
        self._events: list[tuple[float, int, Event]] = []
        self._rank = count()
        self._born = count()

    @property
    def seconds(self) -> float:
        """Simulated seconds since the beginning."""
        return self.now - BEGINNING

    def at(self, seconds: float, event: Event) -> None:
        """Let `event` happen `seconds` after the beginning."""
        heapq.heappush(self._events, (BEGINNING + seconds, next(self._rank), event))

    def run(self) -> None:
        """Let everything happen until the simulated time is over."""
        end = BEGINNING + self.config.seconds
        while self._events and self._events[0][0] <= end:
            at, _, event = heapq.heappop(self._events)
            self.ledger.pass_time(at - self.now)
            self.now = at
            event()
        self.ledger.pass_time(end - self.now)
        self.now = end

    def view(self) -> View:
        """Return what a client outside any region that is cut off reads in the directory."""
        return self._main.view(self.now)

    def is_cut(self, place: Place) -> bool:
        """Whether a peer there is cut off now."""
        return self._is_parted and place.city == CUT_OFF

    def settle_down(self, num_servers: int) -> None:
        """Begin with servers that came one after another, long ago."""
        levels = Levels.nothing(self.config.blocks)
        for _ in range(num_servers):
            server = self._make()
            span = neediest(levels, server.machine.size)
            levels.expect(span, server.machine.speed)
            server.measured()
            held_since = self.now - self.chance.uniform(0, 3600)
            decision = server.placer.resume(span, self.now, speed=server.machine.speed, held_since=held_since)
            self._follow(server, decision, stored_at=self.now)
        if self.config.routes:
            for server in self.ledger.alive:
                self._ping(server, num_asked=8 * ASKED)

    def arrive(self) -> SimulatedServer:
        """Let a new server start."""
        server = self._make()
        self._follow(server, server.placer.start(self._notices(server).outlook(self.now), self.now))
        return server

    def leave(self, server: SimulatedServer) -> None:
        """Let a server go, for half of them without a goodbye."""
        if not server.is_alive:
            return
        server.is_alive = False
        server.turn += 1
        self.ledger.gone(server)
        del self.servers[server.peer]
        is_crash = self.chance.random() < CRASHES
        for notices in self._sides(server):
            if is_crash:
                notices.stop_refreshing(server.peer, self.now)
            else:
                notices.withdraw(server.peer, stored_at=self.now + self.chance.uniform(*STORING))

    def part(self) -> None:
        """Cut a region off: each side keeps what it has read until it expires."""
        self._is_parted = True
        for server in list(self.servers.values()):
            server.is_cut = self.is_cut(server.machine.place)
            far = self._main if server.is_cut else self._cut
            far.stop_refreshing(server.peer, self.now)
            if server.is_cut:
                self.ledger.change_sides(server)

    def mend(self) -> None:
        """Let the region be part of the swarm again: all find each other with their next refresh."""
        self._is_parted = False
        for server in self.servers.values():
            far = self._main if server.is_cut else self._cut
            far.publish(server.record, stored_at=self.now + self.chance.uniform(0, self.config.ttl / 3))
            if server.is_cut:
                server.is_cut = False
                self.ledger.change_sides(server)

    def _make(self) -> SimulatedServer:
        config = self.config
        machine = Machine.draw(self.chance, num_blocks=config.blocks, share=config.span)
        server = SimulatedServer.make(next(self._born), machine, num_blocks=config.blocks, ttl=config.ttl)
        server.is_cut = self.is_cut(machine.place)
        self.servers[server.peer] = server
        self.ledger.came(server)
        if config.lifetime > 0 and config.scenario != "start":
            life = self.chance.expovariate(1 / (3600 * config.lifetime))
            self.at(self.seconds + life, lambda: self.leave(server))
        return server

    def _notices(self, server: SimulatedServer) -> Notices:
        return self._cut if server.is_cut else self._main

    def _sides(self, server: SimulatedServer) -> tuple[Notices, ...]:
        return (self._notices(server),) if self._is_parted else (self._main, self._cut)

    def _follow(self, server: SimulatedServer, decision: Decision, *, stored_at: float | None = None) -> None:
        """Announce a decision, and let happen what it asks for."""
        before = server.record
        server.follow(decision)
        self.ledger.serves(server)
        if server.record != before or stored_at is not None:
            delay = self.chance.uniform(*STORING) if stored_at is None else 0.0
            for notices in self._sides(server):
                notices.publish(server.record, stored_at=self.now + delay)
            self.ledger.num_announced += 1
        else:
            delay = 0.0
        turn = server.turn
        if decision.act is Act.LOOK:
            self._later(server, turn, decision.look_at + delay, lambda: self._look(server))
        elif decision.act is Act.DRAIN:
            self.ledger.moved(self.seconds, server)
            drained_at = self.now + self.chance.uniform(*DRAINING)
            self._later(server, turn, drained_at, lambda: self._follow(server, server.placer.drained(self.now)))
        else:
            self._later(server, turn, self.now + server.load_seconds, lambda: self._loaded(server))

    def _later(self, server: SimulatedServer, turn: int, at: float, event: Event) -> None:
        def happen() -> None:
            if server.is_alive and server.turn == turn:
                event()

        self.at(at - BEGINNING, happen)

    def _look(self, server: SimulatedServer) -> None:
        self.ledger.num_looks += 1
        outlook = self._notices(server).outlook(self.now)
        self.ledger.records_read += len(outlook.records)
        wanted = server.record.next_span
        decision = server.placer.look(outlook, self.now)
        self.ledger.num_wished += wanted is None and decision.next_span is not None
        self._follow(server, decision)
        if server.record.state is ServerState.ONLINE and self.config.routes:
            self._ping(server, num_asked=ASKED)

    def _ping(self, server: SimulatedServer, *, num_asked: int) -> None:
        # Drawn among all alive: most of whom the view shows, and a dead one's ping teaches nothing.
        alive = self.ledger.alive
        drawn = [alive[self.chance.randrange(len(alive))] for _ in range(min(num_asked, len(alive)))]
        if server.ping([other for other in drawn if other is not server]):
            for notices in self._sides(server):
                notices.amend(server.record)

    def _loaded(self, server: SimulatedServer) -> None:
        server.measured()
        self._follow(server, server.placer.loaded(self.now, server.machine.speed))
