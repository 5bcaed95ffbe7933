"""What becomes of a packet, decided without a network."""

from __future__ import annotations

import socket
import struct

import pytest

from benchmarks.wide.terms import ICMP, TCP, Gate, Paths, Terms, Uplink

HERE, THERE, ELSEWHERE = "10.0.0.1", "10.0.0.2", "10.0.0.3"


def packet(
    source: str, target: str, ports: tuple[int, int] = (1000, 80), protocol: int = TCP, size: int = 100
) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!HH", *ports)
    return head.ljust(size, b"\0")


def paths(terms: Terms, *, bits_per_s: float | None = None, buffer_bytes: int = 1000, seed: int = 0) -> Paths:
    return Paths([Uplink(bits_per_s, buffer_bytes) for _ in range(3)], terms, seed=seed)


def test_packets_leave_one_after_another_and_then_travel() -> None:
    network = paths(Terms(delay=0.05), bits_per_s=8000.0)
    sent = packet(HERE, THERE, size=100)
    assert network.arrival(0, 1, sent, 1.0) == pytest.approx(1.15)
    assert network.arrival(0, 2, sent, 1.0) == pytest.approx(1.25)  # one uplink, whoever the packets are for
    assert network.arrival(1, 0, sent, 1.0) == pytest.approx(1.15)


def test_what_finds_the_buffer_full_is_lost_and_later_ones_find_room() -> None:
    network = paths(Terms(), bits_per_s=8000.0, buffer_bytes=250)
    arrivals = [network.arrival(0, 1, packet(HERE, THERE), 0.0) for _ in range(5)]
    assert [arrival is None for arrival in arrivals] == [False, False, False, True, True]
    assert network.arrival(0, 1, packet(HERE, THERE), 0.2) == pytest.approx(0.4)
    assert network.counts.overflowed == 2


def test_jitter_never_lets_a_packet_overtake_another_of_its_pair() -> None:
    network = paths(Terms(delay=0.01, jitter=0.02))
    arrivals = [network.arrival(0, 1, packet(HERE, THERE), 0.001 * index) for index in range(200)]
    times = [arrival for arrival in arrivals if arrival is not None]
    assert len(times) == 200 and times == sorted(times) and max(times) <= 0.199 + 0.03


def test_loss_is_a_share_of_the_packets_and_the_same_for_a_seed() -> None:
    fates = []
    for seed in (1, 1, 2):
        network = paths(Terms(loss=0.1), seed=seed)
        fates.append([network.arrival(0, 1, packet(HERE, THERE), 0.0) is None for _ in range(5000)])
    assert fates[0] == fates[1] != fates[2]
    assert sum(fates[0]) == pytest.approx(500, abs=80)


def test_terms_of_a_pair_count_in_both_directions_and_for_no_other() -> None:
    network = paths(Terms(delay=0.01))
    network.set_terms({"delay": 0.2}, (0, 1))
    network.set_terms({"delay": 0.03})
    found = [network.arrival(*way, packet(HERE, THERE), 0.0) for way in ((0, 1), (1, 0), (0, 2))]
    assert found == [0.2, 0.2, 0.03]


def test_a_cut_stops_what_is_under_way_until_it_is_mended() -> None:
    network, sent = paths(Terms()), packet(HERE, THERE)
    network.set_cut(0, 1, True)
    assert not network.is_let_in(0, 1, sent) and not network.is_let_in(1, 0, sent) and network.is_let_in(0, 2, sent)
    network.set_cut(0, None, True)
    assert not network.is_let_in(2, 0, sent) and network.is_let_in(1, 2, sent)
    network.set_cut(0, None, False)
    assert network.is_let_in(0, 1, sent) and network.is_let_in(2, 0, sent)


def test_a_closed_host_hears_only_answers() -> None:
    network = paths(Terms())
    network.set_closed(0, True)
    answer = packet(THERE, HERE, (80, 1000))
    assert not network.is_let_in(1, 0, answer)
    network.arrival(0, 1, packet(HERE, THERE, (1000, 80)), 0.0)
    assert network.is_let_in(1, 0, answer)
    assert not network.is_let_in(1, 0, packet(THERE, HERE, (81, 1000)))
    assert not network.is_let_in(2, 0, packet(ELSEWHERE, HERE, (80, 1000)))
    network.set_closed(0, False)
    assert network.is_let_in(2, 0, packet(ELSEWHERE, HERE, (80, 1000)))


def test_a_closed_host_may_be_answered_where_there_are_no_ports() -> None:
    gate = Gate()
    assert not gate.lets_in(packet(THERE, HERE, protocol=ICMP))
    gate.note(packet(HERE, THERE, (8, 7), protocol=ICMP))
    assert gate.lets_in(packet(THERE, HERE, (0, 9), protocol=ICMP))
