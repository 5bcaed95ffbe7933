"""The initial peers: whether each is there, is who it should be, speaks our protocol, and is a member of a swarm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swarm.doctor.findings import Code, Finding, fault, ok, warning
from swarm.doctor.probes.knocks import Knock
from swarm.doctor.probes.visits import Greeting
from swarm.errors import SwarmError, VersionMismatch, WrongSwarmKey
from swarm.types import PeerId

CHECK = "initial peers"


def judge_introducers(
    knocks: Sequence[Knock], greetings: Mapping[PeerId, Greeting], deaf: Mapping[PeerId, SwarmError]
) -> list[Finding]:
    """Judge each initial peer by itself; one that is there at another of its addresses is no fault.

    Args:
        knocks: One for each address.
        greetings: What those said that could be asked.
        deaf: Those that answer no calls of the directory, and why.
    """
    findings = [finding for knock in knocks if (finding := _judge(knock, knocks, greetings, deaf))]
    num_well = len({knock.wanted for knock in knocks} - {_wanted(finding, knocks) for finding in findings})
    if num_well and not findings:
        return [ok(CHECK, f"all {num_well} answer" if num_well > 1 else "the one given answers")]
    return findings


def _wanted(finding: Finding, knocks: Sequence[Knock]) -> PeerId | None:
    return next((knock.wanted for knock in knocks if knock.addr in finding.about), None)


def _judge(
    knock: Knock,
    knocks: Sequence[Knock],
    greetings: Mapping[PeerId, Greeting],
    deaf: Mapping[PeerId, SwarmError],
) -> Finding | None:
    peer, about = knock.wanted, (knock.addr, knock.wanted)
    greeting = greetings.get(peer)
    if knock.is_reached or not knock.can_tell:
        if greeting is not None and isinstance(greeting.error, VersionMismatch):
            return fault(CHECK, Code.VERSION_MISMATCH, f"{knock.addr}: {greeting.error}", _UPDATE, *about)
        if greeting is not None and isinstance(greeting.error, WrongSwarmKey):
            text = f"initial peer {knock.addr} is of another swarm: {greeting.error}"
            return fault(CHECK, Code.WRONG_SWARM_KEY, text, KEY_REMEDY, *about)
        if peer in deaf:
            text = f"initial peer {knock.addr}{' listens, but' if knock.is_reached else ':'} {deaf[peer]}"
            return fault(CHECK, Code.BOOTSTRAP_DEAD, text, "name another member of the swarm instead", *about)
        return None
    is_elsewhere = any(other.wanted == peer and other.is_reached for other in knocks)
    judged = warning if is_elsewhere else fault
    if knock.found is not None:
        text = f"at {_place(knock)} answers peer {knock.found}, not {peer} as the initial peer's address says"
        remedy = f"if it is the one that you mean, end the address in /p2p/{knock.found}; else ask for its new address"
        return judged(CHECK, Code.WRONG_PEER_ID, text, remedy, *about, knock.found)
    text = f"initial peer {knock.addr} does not answer: {knock.why}"
    remedy = "have it started again, or its port opened; name others besides it in --initial-peers meanwhile"
    return judged(CHECK, Code.BOOTSTRAP_DEAD, text, remedy, *about)


KEY_REMEDY = (
    "give --swarm-key the key file of that swarm, or `swarm join` its line; none for a swarm that is open to all"
)
_UPDATE = "update the older of the two"


def _place(knock: Knock) -> str:
    return knock.addr.rpartition("/p2p/")[0]
