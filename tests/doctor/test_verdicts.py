"""Verdicts over values: each finding's cause, and what must not be taken for one."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from swarm.doctor.findings import MAX_SHOWN, Code, Level, fault, ok
from swarm.doctor.probes.hosts import Here, Scope, hosts_of, look_here, scope_of
from swarm.doctor.probes.knocks import Knock
from swarm.doctor.probes.machine import Disk, Files, Own
from swarm.doctor.probes.visits import Greeting, Visit, choose, is_same
from swarm.doctor.report import summary, tell
from swarm.doctor.verdicts.introducers import judge_introducers
from swarm.doctor.verdicts.machine import judge_clocks, judge_disk, judge_files
from swarm.doctor.verdicts.models import judge_model, lost_without
from swarm.doctor.verdicts.ourselves import judge_reach, judge_running
from swarm.doctor.verdicts.places import misplaced
from swarm.doctor.verdicts.servers import Surroundings, judge_server
from swarm.errors import CheckpointCorrupt, PeerUnreachable, VersionMismatch, WrongSwarmKey
from swarm.server.verdict import Finding as Answers
from swarm.types import PeerId, Reach, ServerState, Span
from tests.planning.views import record, view

A = PeerId("12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL")
B = PeerId("12D3KooWSA4ogwY46oyXWqXRfHxvNucdtiW9eUTZf23xaBYfpS9P")
HERE = Here(frozenset({"127.0.0.1", "192.168.1.2", "172.17.0.1"}), ())
DOCKER_HOST = Here(
    HERE.hosts, tuple(__import__("ipaddress").ip_network(net) for net in ("192.168.1.0/24", "172.17.0.0/16"))
)


def at(*hosts: str, peer: PeerId = A) -> tuple[str, ...]:
    return tuple(f"/ip4/{host}/tcp/4001/p2p/{peer}" for host in hosts)


@pytest.mark.parametrize(
    ("hosts", "others", "here", "is_reached", "expected"),
    [
        # A swarm on one machine, in one LAN, in one network of containers, or spread over the world: all well.
        (["127.0.0.1"], [["127.0.0.1"], ["127.0.0.1", "192.168.1.2"]], HERE, True, None),
        (["127.0.0.1"], [["192.168.1.2"]], HERE, True, None),
        (["127.0.0.1"], [], HERE, False, None),
        (["192.168.1.3"], [["203.0.113.9"]], HERE, False, None),
        (["127.0.0.1", "172.17.0.1", "192.168.1.3"], [["192.168.1.9"]], HERE, False, None),
        (["172.17.0.5"], [["172.17.0.6"], ["172.17.0.1"]], DOCKER_HOST, True, None),
        (["172.20.0.5"], [["203.0.113.9"]], HERE, True, None),  # reached from elsewhere: a real network of that number
        (["172.31.0.5"], [["203.0.113.9"]], HERE, False, None),  # as Amazon gives them
        ([], [["203.0.113.9"]], HERE, False, None),
        # Somebody is elsewhere.
        (["127.0.0.1"], [["203.0.113.9"]], HERE, True, "203.0.113.9 is elsewhere"),
        (["127.0.0.1"], [["127.0.0.1"], ["192.168.1.9"]], HERE, False, "192.168.1.9 is elsewhere"),
        (["127.0.0.1", "172.17.0.5"], [["192.168.1.9"]], DOCKER_HOST, True, "network of containers, but 192.168.1.9"),
        (["172.17.0.5"], [], HERE, False, "not reached from here"),
        (["10.88.0.5"], [["127.0.0.1"]], HERE, False, "not reached from here"),
    ],
)
def test_a_local_address_is_wrong_only_where_somebody_is_elsewhere(
    hosts: list[str], others: list[list[str]], here: Here, is_reached: bool, expected: str | None
) -> None:
    why = misplaced(at(*hosts), others, here, is_reached=is_reached)
    assert why is None if expected is None else why is not None and expected in why


def test_addresses_that_may_lead_anywhere_are_not_judged() -> None:
    relayed = f"/ip4/127.0.0.1/tcp/1/p2p/{B}/p2p-circuit/p2p/{A}"
    assert hosts_of((relayed,)) is None and hosts_of((f"/dns4/localhost/tcp/1/p2p/{A}",)) is None
    assert hosts_of(("garbage",)) is None and hosts_of(at("127.0.0.1", "127.0.0.1")) == ("127.0.0.1",)
    assert misplaced((*at("127.0.0.1"), relayed), [["203.0.113.9"]], HERE, is_reached=False) is None


def test_this_machine_knows_its_addresses_and_networks() -> None:
    here = look_here()
    assert "127.0.0.1" in here.hosts and not here.is_in_network_of("127.0.0.1")
    assert [scope_of(host) for host in ("::1", "172.30.0.1", "169.254.1.1", "10.0.0.1", "8.8.8.8")] == list(Scope)


@pytest.mark.parametrize(
    ("ahead", "level", "words"),
    [
        ({}, Level.OK, "nobody could be asked"),
        ({A: 1.0, B: -2.9}, Level.OK, "2.9 s apart"),
        ({A: 60.0}, Level.FAULT, "this machine's clock is 60 s behind peer 12D3"),
        ({A: -60.0, B: -61.0}, Level.FAULT, "this machine's clock is 60 s ahead of 2 peers'"),
        ({A: 60.0, B: 0.1}, Level.FAULT, f"peer {A}'s clock is 60 s ahead"),
        ({A: -9.0, B: 0.1}, Level.FAULT, f"peer {A}'s clock is 9 s behind"),
    ],
)
def test_whose_clock_is_wrong_is_told_by_the_majority(ahead: dict[PeerId, float], level: Level, words: str) -> None:
    (finding,) = judge_clocks(ahead)
    assert finding.level is level and words in finding.text
    assert finding.code is (Code.CLOCK_WRONG if level is Level.FAULT else None)


def knock(host: str = "127.0.0.1", found: PeerId | None = A, **changes: Any) -> Knock:
    addr = f"/ip4/{host}/tcp/4001{'/tls' if changes.get('is_direct') else ''}/p2p/{A}"
    return Knock(**{"addr": addr, "wanted": A, "found": found, "host": host, "port": 4001, **changes})


def test_an_initial_peer_is_judged_by_its_address_its_word_and_its_directory() -> None:
    def judged(*knocks: Knock, error: Any = None, deaf: Any = None) -> list[tuple[str, Level]]:
        greetings = {A: Greeting(error=error)} if error else {}
        found = judge_introducers(knocks, greetings, {A: deaf} if deaf else {})
        return [(each.code.number if each.code else "", each.level) for each in found]

    refused = knock(found=None, why="connection refused")
    assert judged(knock()) == [("", Level.OK)]
    assert judged(refused) == [("SW03", Level.FAULT)]
    assert judged(knock(found=B)) == [("SW02", Level.FAULT)]
    assert judged(knock(), refused) == [("SW03", Level.WARNING)]  # the same peer answers at its other address
    assert judged(knock(), error=VersionMismatch("1..1")) == [("SW05", Level.FAULT)]
    assert judged(knock(), error=WrongSwarmKey("no key"), deaf=PeerUnreachable("deaf")) == [("SW04", Level.FAULT)]
    assert judged(knock(), error=PeerUnreachable("no channel")) == [("", Level.OK)]  # a plain node of hivemind's DHT
    assert judged(knock(), deaf=PeerUnreachable("deaf")) == [("SW03", Level.FAULT)]
    assert judged(knock(found=None, can_tell=False)) == [("", Level.OK)]


GONE = PeerUnreachable("connection refused")


def server(*knocks: Knock, error: Any = None, lost: tuple[Span, ...] = (), others: Any = (), **changes: Any) -> Any:
    told = record(A, 0, 4, addrs=tuple(each.addr for each in knocks), expires_at=60.0, **changes)
    around = Surroundings(here=HERE, others=others, lost=lost, now=20.0)
    return judge_server(Visit(told, knocks, Greeting(error=error)), around)


def test_a_server_that_answers_has_no_fault_but_for_a_port_that_it_advertises_in_vain() -> None:
    direct = knock(is_direct=True, port=4002)
    closed = knock(found=None, why="connection refused")
    assert server(knock(), direct) is None
    assert server(knock(), knock("192.168.9.9", found=None, why="timed out")) is None  # one of its addresses will do
    assert server(direct, closed).code is Code.PORT_CLOSED and server(direct, closed).level is Level.FAULT
    slower = server(knock(), knock(is_direct=True, port=4002, found=None, why="timed out"))
    assert slower.code is Code.PORT_CLOSED and slower.level is Level.WARNING and "4002" in slower.remedy
    assert server(knock(), reach=Reach.UNREACHABLE).code is Code.ONE_WAY
    assert server(knock(found=B), direct).code is Code.WRONG_PEER_ID


def test_of_a_server_that_does_not_answer_the_cause_is_told() -> None:
    closed = knock(found=None, why="connection refused")
    finding = server(closed, error=GONE, lost=(Span(2, 4),))
    assert finding.code is Code.PORT_CLOSED and "nobody else serves blocks 2:4" in finding.text
    assert "40 s more" in finding.remedy
    assert server(knock(found=B), error=GONE).code is Code.WRONG_PEER_ID
    assert server(knock(), error=GONE).code is Code.SERVER_SILENT
    assert server(error=GONE).code is Code.PORT_CLOSED  # only relays' addresses, at none of which it is
    assert server(closed, error=VersionMismatch("1..1")).code is Code.VERSION_MISMATCH
    assert server(closed, error=WrongSwarmKey("no")).code is Code.WRONG_SWARM_KEY
    assert server(closed, error=GONE, others=[["203.0.113.9"]]).code is Code.LOCAL_ADDRESS


def test_a_stranger_at_a_private_address_means_nothing_if_there_is_a_public_one() -> None:
    far = knock("8.8.8.8", found=None, why="timed out")
    assert server(knock("192.168.1.7", found=B), far, error=GONE).code is Code.PORT_CLOSED
    assert server(knock("8.8.8.8", found=B), error=GONE).code is Code.WRONG_PEER_ID


def test_a_server_that_calls_itself_unreachable_is_a_fault_only_if_it_is_needed() -> None:
    closed = knock("8.8.8.8", found=None, why="timed out")
    assert server(closed, error=GONE, reach=Reach.UNREACHABLE).level is Level.WARNING
    assert server(closed, error=GONE, reach=Reach.UNREACHABLE, lost=(Span(0, 4),)).level is Level.FAULT


def codes_of(*records: Any, own: Own | None = None) -> list[tuple[str, Level]]:
    found = judge_model(view(*records), own)
    return [(each.code.number if each.code else "", each.level) for each in found]


def test_blocks_are_uncovered_only_if_nothing_else_explains_it() -> None:
    assert codes_of(record("a", 0, 20), record("b", 20, 30)) == [("", Level.OK)]
    assert codes_of(record("a", 0, 20)) == [("SW08", Level.FAULT)]
    loading = record("b", 20, 30, state=ServerState.JOINING)
    assert codes_of(record("a", 0, 20), loading) == [("SW08", Level.WARNING)]
    assert codes_of(record("a", 0, 20), record("b", 20, 30, state=ServerState.DRAINING)) == [("SW08", Level.FAULT)]
    hidden = record("b", 20, 30, reach=Reach.UNREACHABLE)
    assert ("SW08", Level.FAULT) not in codes_of(record("a", 0, 20), hidden)  # judged as a server
    other = record("b", 20, 30, fingerprint="g")
    assert codes_of(record("a", 0, 20), record("c", 0, 20), other) == [("SW09", Level.FAULT)]
    assert lost_without(view(record("a", 0, 20), record("b", 10, 30)), PeerId("b")) == (Span(20, 30),)


def test_who_differs_is_told_by_the_files_here_else_by_the_majority() -> None:
    edited = record("c", 0, 30, digests=("x", *(f"d{block}" for block in range(1, 30))))
    (finding,) = judge_model(view(record("a", 0, 30), record("b", 0, 30), edited), None)
    assert (
        finding.code is Code.FINGERPRINT_MISMATCH
        and "server c (0:30) holds other weights in blocks 0:1" in finding.text
    )
    own = Own(fingerprint="f", num_blocks=30, digests={0: "x"})
    (finding,) = judge_model(view(record("a", 0, 30), edited), own)
    assert "server a" in finding.text and "server c" not in finding.text and "unlike the files here" in finding.text
    assert codes_of(record("a", 0, 30), own=Own(fingerprint="g", num_blocks=30)) == [("SW09", Level.FAULT)]
    assert codes_of(record("a", 0, 30), own=Own(fingerprint="f", num_blocks=30, digests={3: "d3"})) == [("", Level.OK)]
    loading = record("b", 0, 30, digests=("",) * 30, state=ServerState.JOINING)
    assert codes_of(record("a", 0, 30), loading, own=own)[0][0] == "SW09"


def test_a_disk_is_full_if_what_is_missing_does_not_fit() -> None:
    folder = Path("/cache")
    here = Files(name="m", folder=folder, checkpoint=object())  # type: ignore[arg-type]
    missing = Files(name="m", folder=folder, missing_bytes=300 << 20)
    assert judge_disk(Disk(folder=folder, free=1 << 30), missing).level is Level.OK
    assert judge_disk(Disk(folder=folder, free=200 << 20), here).level is Level.OK
    assert judge_disk(Disk(folder=folder, free=200 << 20), missing).code is Code.DISK_FULL
    assert judge_disk(Disk(folder=folder, free=1 << 20), here).code is Code.DISK_FULL
    assert judge_disk(Disk(folder=folder, free=1 << 30, errno=errno.EDQUOT), here).code is Code.DISK_FULL
    assert judge_disk(Disk(folder=folder, free=0, errno=errno.EROFS), missing).code is Code.MODEL_UNUSABLE
    assert judge_disk(Disk(folder=folder, free=0, errno=errno.EROFS), here).level is Level.OK
    broken = Files(name="m", folder=folder, trouble=CheckpointCorrupt("m: truncated: copy it again"))
    assert judge_files(broken).code is Code.MODEL_UNUSABLE


def test_our_own_reachability_is_what_others_say() -> None:
    def judged(reach: Reach, addrs: tuple[str, ...] = at("127.0.0.1"), others: Any = (), **changes: Any) -> Any:
        (finding,) = judge_reach(Answers(reach=reach, text="refused", **changes), addrs, others, HERE)
        return finding

    assert judged(Reach.DIRECT, reached=at("127.0.0.1")).level is Level.OK
    assert judged(Reach.UNREACHABLE).code is Code.ONE_WAY and "TCP port 4001" in judged(Reach.UNREACHABLE).remedy
    assert judged(Reach.UNKNOWN).level is Level.WARNING
    assert judged(Reach.UNREACHABLE, others=[["192.168.1.9"]]).code is Code.LOCAL_ADDRESS
    direct_only = judged(Reach.DIRECT, reached=(f"/ip4/127.0.0.1/tcp/4002/tls/p2p/{A}",))
    assert direct_only.code is Code.ONE_WAY


@pytest.mark.parametrize(
    ("reach", "level"),
    [(Reach.DIRECT, Level.OK), (Reach.RELAYED, Level.WARNING), (Reach.UNREACHABLE, Level.FAULT)],
)
def test_a_server_that_runs_here_is_judged_by_its_own_record(reach: Reach, level: Level) -> None:
    (finding,) = judge_running(A, record(A, 0, 4, reach=reach))
    assert finding.level is level
    assert judge_running(A, None)[0].code is Code.NOT_EXAMINED


def test_of_many_servers_some_are_dialled_and_each_once() -> None:
    many = view(
        *(record(f"p{number}", 0, 30) for number in range(100)), record("gone", 0, 30, state=ServerState.DRAINING)
    )
    chosen, number = choose((many, many), limit=16)
    assert number == 100 and len({each.peer for _, each in chosen}) == 16
    assert is_same(record("a", 0, 30), record("a", 0, 30, load=3)) and not is_same(record("a", 0, 30), None)
    assert not is_same(record("a", 0, 30), record("a", 0, 30, addrs=at("8.8.8.8")))


def test_what_strangers_wrote_neither_steers_a_terminal_nor_fills_it(capsys: pytest.CaptureFixture[str]) -> None:
    evil = fault("servers", Code.PORT_CLOSED, f"\x1b[2J\nok all fine{'x' * 5000}\u202e", "\x07do this")
    assert not tell([ok("disk", "room"), evil], seconds=1.0, is_json=False)
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 3 and shown.isprintable() is False
    assert "\x1b" not in shown and "\u202e" not in shown and "\x07" not in shown and len(shown) < MAX_SHOWN + 300
    assert summary(0, 0) == "healthy" and summary(0, 2) == "healthy, with 2 warnings"
    assert summary(2, 1).startswith("2 faults and 1 warning; ")


def test_codes_and_their_names_are_unique() -> None:
    assert len({code.number for code in Code}) == len({code.title for code in Code}) == len(Code)
