"""Servers, as those see them who would use them: by their record, their addresses and what they say there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarm.doctor.findings import Code, Finding, fault, warning
from swarm.doctor.probes.hosts import Here, Scope, scope_of
from swarm.doctor.probes.knocks import Knock
from swarm.doctor.probes.visits import Visit
from swarm.doctor.verdicts.places import misplaced
from swarm.errors import VersionMismatch, WrongSwarmKey
from swarm.planning.coverage import format_spans
from swarm.types import Reach, ServerRecord, Span

CHECK = "servers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a server is judged against.

    Attributes:
        here: This machine.
        others: The IP addresses of each other peer that is there.
        lost: The blocks that nobody would serve without this server.
        now: Unix time.
    """

    here: Here
    others: Sequence[Sequence[str]]
    lost: Sequence[Span]
    now: float


def judge_server(visit: Visit, around: Surroundings) -> Finding | None:
    """Return what is wrong with one server, the cause first; None if nothing is."""
    record = visit.record
    if isinstance(visit.greeting.error, VersionMismatch):
        text = f"{name_of(record)}: {visit.greeting.error}"
        return fault(CHECK, Code.VERSION_MISMATCH, text, "update the older of the two", record.peer)
    if isinstance(visit.greeting.error, WrongSwarmKey):
        text = f"{name_of(record)} is of another swarm: {visit.greeting.error}"
        return fault(CHECK, Code.WRONG_SWARM_KEY, text, "its owner gives it this swarm's --swarm-key", record.peer)
    is_reached = visit.greeting.error is None
    if why := misplaced(record.addrs, around.others, around.here, is_reached=is_reached):
        remedy = (
            "its owner gives --announce-maddrs /ip4/ITS-REAL-IP/tcp/PORT, and publishes the container's port or uses "
            "the host's network"
        )
        return fault(CHECK, Code.LOCAL_ADDRESS, f"{name_of(record)} {why}", remedy, record.peer, *record.addrs)
    if is_reached:
        return _judge_reached(visit)
    return _judge_lost(visit, around)


def name_of(record: ServerRecord) -> str:
    """Return how to call a server: its peer id, its owner's name for it, what it serves."""
    named = f" ({record.public_name})" if record.public_name else ""
    return f"server {record.peer}{named} of blocks {record.span} of {record.model}"


def _judge_reached(visit: Visit) -> Finding | None:
    record = visit.record
    for is_direct, ports in _closed_ports(visit.knocks).items():
        if stranger := _stranger(ports):
            return _strange(record, stranger, fault, "")
        kind, judged = ("direct", warning) if is_direct else ("libp2p", fault)
        loss = "which makes it slower" if is_direct else "so the directory and relays do not get to it"
        text = f"{name_of(record)}: its advertised {kind} port {ports[0].port} does not answer ({_whys(ports)}), {loss}"
        addrs = (knock.addr for knock in ports)
        return judged(CHECK, Code.PORT_CLOSED, text, _open(ports), record.peer, *addrs)
    if record.reach is Reach.UNREACHABLE:
        text = f"{name_of(record)} is reached from here, but peers that it asked could not dial it"
        return warning(CHECK, Code.ONE_WAY, text, f"its owner lets TCP {_ports(visit.knocks)} in", record.peer)
    return None


def _judge_lost(visit: Visit, around: Surroundings) -> Finding:
    record, knocks = visit.record, visit.knocks
    # The swarm sends nobody to one that calls itself unreachable: that harms only if it is the only one.
    judged = warning if record.reach is Reach.UNREACHABLE and not around.lost else fault
    lost = f"; nobody else serves blocks {format_spans(around.lost)}" if around.lost else ""
    about = (record.peer, *(knock.addr for knock in knocks))
    if any(knock.is_reached for knock in knocks):
        text = f"{name_of(record)} takes connections, but does not answer: {visit.greeting.error}{lost}"
        return judged(CHECK, Code.SERVER_SILENT, text, "its owner looks at its log and starts it again", *about)
    if stranger := _stranger(knocks):
        return _strange(record, stranger, judged, lost)
    left = max(0.0, record.expires_at - around.now)
    text = f"{name_of(record)}: no advertised port answers ({_whys(knocks) or visit.greeting.error}){lost}"
    remedy = f"start it again if it has ended (its record lives {left:.0f} s more); else {_open(knocks)}"
    return judged(CHECK, Code.PORT_CLOSED, text, remedy, *about)


def _stranger(knocks: Sequence[Knock]) -> Knock | None:
    """The first address at which another peer answers; in other private networks, others have the same addresses."""
    scopes = [scope_of(each.host) for each in knocks if each.host]
    for knock in knocks:
        is_far = Scope.WORLD not in scopes or scope_of(knock.host) is Scope.WORLD
        if knock.found not in (None, knock.wanted) and is_far:
            return knock
    return None


def _strange(record: ServerRecord, knock: Knock, judged: Callable[..., Finding], lost: str) -> Finding:
    text = f"{name_of(record)}: at its address {knock.addr} answers peer {knock.found}{lost}"
    remedy = "its owner corrects --announce-maddrs, or the router's forwarding; two servers need two ports"
    return judged(CHECK, Code.WRONG_PEER_ID, text, remedy, record.peer, knock.addr, str(knock.found))


def _closed_ports(knocks: Sequence[Knock]) -> dict[bool, list[Knock]]:
    """The kinds of addresses (direct or not), of which none answers, libp2p's first."""
    closed = {}
    for is_direct in (False, True):
        tried = [knock for knock in knocks if knock.can_tell and knock.is_direct is is_direct]
        if tried and not any(knock.is_reached for knock in tried):
            closed[is_direct] = tried
    return closed


def _open(knocks: Sequence[Knock]) -> str:
    return f"its owner lets TCP {_ports(knocks)} in, at firewall and router, or corrects --announce-maddrs"


def _ports(knocks: Sequence[Knock]) -> str:
    ports = sorted({knock.port for knock in knocks if knock.port})
    return f"port {' and '.join(map(str, ports))}" if ports else "its port"


def _whys(knocks: Sequence[Knock]) -> str:
    """Why nobody answered: each address once, the first few."""
    told = [
        f"{knock.addr.rpartition('/p2p/')[0]}: {knock.why or f'peer {knock.found} lives there'}" for knock in knocks[:3]
    ]
    return "; ".join(told)
