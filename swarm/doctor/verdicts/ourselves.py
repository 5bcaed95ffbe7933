"""This machine as a server would find it: whether others can dial it."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.doctor.findings import Code, Finding, fault, ok, warning
from swarm.doctor.probes.hosts import Here
from swarm.doctor.verdicts.places import misplaced
from swarm.doctor.verdicts.servers import name_of
from swarm.server.verdict import Finding as Answers
from swarm.server.verdict import remedy
from swarm.types import PeerId, Reach, ServerRecord

CHECK = "reachability"


def judge_reach(answers: Answers, addrs: Sequence[str], others: Sequence[Sequence[str]], here: Here) -> list[Finding]:
    """Judge what peers say who were asked to dial us back.

    Args:
        answers: What they said, as a server would put it together.
        addrs: Our addresses, as they would be announced.
        others: The IP addresses of each other peer that is there.
        here: This machine.
    """
    is_reached = answers.reach is Reach.DIRECT
    if why := misplaced(addrs, others, here, is_reached=is_reached):
        text = f"a server here {why}"
        return [fault(CHECK, Code.LOCAL_ADDRESS, text, _ANNOUNCE, *addrs)]
    if is_reached and not answers.takes_calls:
        reached = ", ".join(map(_short, answers.reached))
        text = f"others reach {reached}, but not libp2p's port, which the directory and relays need: {answers.text}"
        advice = "let that TCP port in, at firewall and router, or correct --announce-maddrs"
        return [fault(CHECK, Code.ONE_WAY, text, advice, *addrs)]
    if is_reached:
        return [ok(CHECK, f"others reach this machine at {', '.join(_short(addr) for addr in answers.reached[:4])}")]
    if answers.reach is Reach.UNREACHABLE:
        whole = remedy(Reach.UNREACHABLE, answers, addrs)
        advice = whole.partition("Remedy: ")[2].partition(". We look again")[0]
        text = f"this machine dials others, but they cannot dial it back: {answers.text}"
        return [fault(CHECK, Code.ONE_WAY, text, advice, *addrs)]
    text = f"nobody could tell whether this machine is reached ({answers.text or 'no member dialled it back'})"
    return [warning(CHECK, Code.NOT_EXAMINED, text, "look again when the swarm has more members", *addrs)]


def judge_running(peer: PeerId, record: ServerRecord | None) -> list[Finding]:
    """Judge the server that runs on this machine already, by its own record.

    Args:
        peer: Who it is.
        record: What it announces; None if that is nothing.
    """
    if record is None:
        text = f"peer {peer} runs here, and announces no blocks in this swarm"
        remedy = "if it is a server, see its log: it may load still, or have joined another swarm"
        return [warning(CHECK, Code.NOT_EXAMINED, text, remedy, peer)]
    if record.reach is Reach.UNREACHABLE:
        text = f"{name_of(record)} runs here, and nobody whom it asked can dial it: no client is sent to it"
        advice = "let its TCP port in, at firewall and router, and give --announce-maddrs; its log says which port"
        return [fault(CHECK, Code.ONE_WAY, text, advice, peer)]
    if record.reach is Reach.RELAYED:
        text = f"{name_of(record)} runs here, and is reached through relays only, which is slower"
        return [warning(CHECK, Code.ONE_WAY, text, "let its TCP port in, at firewall and router", peer)]
    return [ok(CHECK, f"{name_of(record)} runs here; others reach it: {record.reach.value}")]


def port_taken(why: str) -> list[Finding]:
    """Return that something else listens where the server would."""
    return [fault(CHECK, Code.PORT_TAKEN, why, "end the other program, or choose another --port")]


_ANNOUNCE = (
    "give --announce-maddrs /ip4/REAL-IP/tcp/PORT with an address of this machine that others reach, and publish the "
    "container's port or use the host's network"
)


def _short(addr: str) -> str:
    return addr.rpartition("/p2p/")[0]
