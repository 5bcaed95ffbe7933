"""What becomes of a packet: when it arrives, or that it does not. Pure: no socket, no clock.

A packet leaves its host through an uplink that sends one bit after another. What has to wait for it waits in a buffer;
what finds the buffer full is lost, as it is in a router. Then it travels for the delay of the pair, never overtaking
an earlier packet of the same pair: it is loss that TCP has to live with here, not disorder.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

TCP, UDP, ICMP = 6, 17, 1

_MAX_FLOWS = 65536
"""Flows that a closed host remembers; the oldest is forgotten first, as routers do."""

Flow = tuple[int, bytes, bytes]
"""Protocol, the other side's address, and both ports (ours first) as they stand in the packet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How packets travel from one host to another.

    Attributes:
        delay: Seconds, one way.
        jitter: Seconds that a packet takes longer than `delay` at most, evenly spread.
        loss: Share of packets that never arrive.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0


@dataclass(slots=True)
class Uplink:
    """A host's way out: `bits_per_s` (None: no limit), and room for `buffer_bytes` that wait."""

    bits_per_s: float | None
    buffer_bytes: int
    free_at: float = 0.0

    def leave(self, size: int, now: float) -> float | None:
        """Return when a packet of so many bytes has left; None if it finds the buffer full."""
        if self.bits_per_s is None:
            return now
        begin = max(now, self.free_at)
        if (begin - now) * self.bits_per_s > 8 * self.buffer_bytes:
            return None
        self.free_at = begin + 8 * size / self.bits_per_s
        return self.free_at


class Gate:
    """A host that nobody can call: packets come in only as answers to what it sent, as behind a home router.

    Ports are not translated, so that whoever it calls sees where it really is; but calling back there is in vain.
    """

    def __init__(self) -> None:
        self._flows: dict[Flow, None] = {}

    def note(self, packet: bytes) -> None:
        """The host sends this."""
        flow = _flow(packet, is_outbound=True)
        self._flows.pop(flow, None)
        self._flows[flow] = None
        if len(self._flows) > _MAX_FLOWS:
            del self._flows[next(iter(self._flows))]

    def lets_in(self, packet: bytes) -> bool:
        """Whether this answers something that the host sent."""
        return _flow(packet, is_outbound=False) in self._flows


@dataclass(slots=True)
class Counts:
    """Packets so far: those that travelled, were lost by chance, found a full buffer, or met a cut or a closed host."""

    passed: int = 0
    lost: int = 0
    overflowed: int = 0
    stopped: int = 0


class Paths:
    """All pairs of `num_hosts` hosts: what each packet meets on its way."""

    def __init__(self, uplinks: list[Uplink], terms: Terms, *, seed: int) -> None:
        self.counts = Counts()
        self._uplinks = uplinks
        self._terms = terms
        self._own: dict[tuple[int, int], Terms] = {}
        self._cut: set[tuple[int, int]] = set()
        self._gates: dict[int, Gate] = {}
        self._latest: dict[tuple[int, int], float] = {}
        self._dice = random.Random(seed)

    def set_terms(self, changes: dict[str, float], pair: tuple[int, int] | None = None) -> None:
        """Change how all packets travel, or those between two hosts, which the former leaves alone from then on."""
        if pair is None:
            self._terms = replace(self._terms, **changes)
            return
        for way in (pair, pair[::-1]):
            self._own[way] = replace(self._own.get(way, self._terms), **changes)

    def set_rate(self, host: int, bits_per_s: float | None) -> None:
        """Change an uplink's rate."""
        self._uplinks[host].bits_per_s = bits_per_s

    def set_cut(self, one: int, other: int | None, is_cut: bool) -> None:
        """Let no packet through between two hosts, or between one and all; or let them through again."""
        others = range(len(self._uplinks)) if other is None else (other,)
        for each in others:
            for way in ((one, each), (each, one)):
                if is_cut:
                    self._cut.add(way)
                else:
                    self._cut.discard(way)

    def set_closed(self, host: int, is_closed: bool) -> None:
        """Let nobody call a host, or let all; connections that it has when it is closed are forgotten."""
        if is_closed:
            self._gates[host] = Gate()
        else:
            self._gates.pop(host, None)

    def arrival(self, source: int, target: int, packet: bytes, now: float) -> float | None:
        """Return when a packet that `source` sends now arrives; None if it never does.

        Whether `target` takes it when it arrives is `is_let_in`.
        """
        way, counts = (source, target), self.counts
        if source in self._gates:
            self._gates[source].note(packet)
        left = self._uplinks[source].leave(len(packet), now)
        if left is None:
            counts.overflowed += 1
            return None
        terms = self._own.get(way, self._terms)
        if terms.loss and self._dice.random() < terms.loss:
            counts.lost += 1
            return None
        arrival = left + terms.delay
        if terms.jitter:
            arrival += terms.jitter * self._dice.random()
        self._latest[way] = arrival = max(arrival, self._latest.get(way, 0.0))
        return arrival

    def is_let_in(self, source: int, target: int, packet: bytes) -> bool:
        """Whether a packet that has arrived reaches its host: the pair is not cut, and the host takes it."""
        gate = self._gates.get(target)
        is_in = (source, target) not in self._cut and (gate is None or gate.lets_in(packet))
        if is_in:
            self.counts.passed += 1
        else:
            self.counts.stopped += 1
        return is_in


def _flow(packet: bytes, *, is_outbound: bool) -> Flow:
    protocol = packet[9]
    peer = packet[16:20] if is_outbound else packet[12:16]
    if protocol not in (TCP, UDP):
        return protocol, peer, b""
    at = 4 * (packet[0] & 15)
    source, target = packet[at : at + 2], packet[at + 2 : at + 4]
    return protocol, peer, source + target if is_outbound else target + source
