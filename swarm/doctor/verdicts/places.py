"""Addresses that only work on one machine, told to others who are elsewhere.

A swarm on one machine announces loopback addresses, and one inside a network of containers theirs: both are right.
Such addresses are wrong as soon as somebody is elsewhere. Who is elsewhere is seen by his own addresses: none of them
is of this machine, or of the same network of containers.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from swarm.doctor.probes.hosts import Here, Scope, hosts_of, scope_of

_LOCAL = frozenset({Scope.MACHINE, Scope.CONTAINER, Scope.LINK})


def misplaced(addrs: Sequence[str], others: Sequence[Sequence[str]], here: Here, *, is_reached: bool) -> str | None:
    """Return why nobody elsewhere gets to a peer that announces `addrs`, or None if that cannot be said.

    Args:
        addrs: All that it announces.
        others: The IP addresses of each other peer that is there.
        here: This machine.
        is_reached: Whether it was reached from here.
    """
    hosts = hosts_of(addrs)
    if not hosts or not is_local(addrs):
        return None
    scopes = {scope_of(host) for host in hosts}
    told = ", ".join(hosts)
    if scopes == {Scope.MACHINE}:
        stranger = _stranger(others, here, ())
        return (
            f"announces only {told}, which means {Scope.MACHINE.value}, but {stranger} is elsewhere"
            if stranger
            else None
        )
    inside = [host for host in hosts if scope_of(host) is not Scope.MACHINE]
    where = scope_of(inside[0]).value
    is_beside = any(here.is_in_network_of(host) for host in inside)
    if not is_beside:
        return None if is_reached else f"announces only {told}, of {where}, and is not reached from here"
    stranger = _stranger(others, here, inside)
    return f"announces only {told}, of {where}, but {stranger} is elsewhere" if stranger else None


def is_local(addrs: Sequence[str]) -> bool:
    """Whether a peer announces nothing but addresses that only work nearby."""
    hosts = hosts_of(addrs)
    return bool(hosts) and all(scope_of(host) in _LOCAL for host in hosts or ())


def _stranger(others: Sequence[Sequence[str]], here: Here, inside: Sequence[str]) -> str | None:
    """The first other peer's address that is neither of this machine nor in a network of containers with `inside`."""
    for hosts in others:
        if hosts and not any(_is_near(host, here, inside) for host in hosts):
            return hosts[0]
    return None


def _is_near(host: str, here: Here, inside: Sequence[str]) -> bool:
    if scope_of(host) is Scope.MACHINE or host in here.hosts:
        return True
    return any(
        ip_address(host).version == 4 and ip_address(host) in ip_network(f"{each}/16", strict=False)
        for each in inside
        if ip_address(each).version == 4
    )
