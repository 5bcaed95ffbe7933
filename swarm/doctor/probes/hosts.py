"""Where addresses lead: this machine's own, and how far away the others can be reached from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network

import psutil

from swarm.network import parse_addr
from swarm.network.addresses import direct_endpoint, plain_host, tcp_endpoint

CONTAINERS = (*(ip_network(f"172.{number}.0.0/16") for number in range(17, 31)), ip_network("10.88.0.0/16"))
"""Networks that container engines make inside one machine: Docker's first pools, Podman's. Others, such as 172.31, are
as often real networks (Amazon's default is that one)."""

IpAddress = IPv4Address | IPv6Address


class Scope(Enum):
    """From where an IP address can be reached."""

    MACHINE = "this machine only"
    CONTAINER = "a network of containers"
    LINK = "one cable or radio network"
    PRIVATE = "a private network"
    WORLD = "everywhere"


@dataclass(frozen=True, slots=True)
class Here:
    """This machine.

    Attributes:
        hosts: Its own IP addresses.
        networks: Those that it stands in, loopback not among them.
    """

    hosts: frozenset[str]
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    def is_in_network_of(self, host: str) -> bool:
        """Whether one of this machine's networks holds the IP address `host`."""
        address = ip_address(host)
        return any(address.version == network.version and address in network for network in self.networks)


def look_here() -> Here:
    """Return this machine's addresses and networks of this moment."""
    hosts: set[str] = set()
    networks: list[IPv4Network | IPv6Network] = []
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            try:
                host = plain_host(entry.address)
                network = ip_interface(f"{host}/{entry.netmask or ''}".rstrip("/")).network
            except ValueError:  # a hardware address, or a netmask of a kind that we cannot read
                continue
            hosts.add(host)
            if not network.is_loopback and network.num_addresses > 1:
                networks.append(network)
    return Here(frozenset(hosts), tuple(networks))


def scope_of(host: str) -> Scope:
    """Return from where the IP address `host` can be reached."""
    address = ip_address(host)
    if address.is_loopback or address.is_unspecified:
        return Scope.MACHINE
    if any(address.version == network.version and address in network for network in CONTAINERS):
        return Scope.CONTAINER
    if address.is_link_local:
        return Scope.LINK
    return Scope.PRIVATE if address.is_private else Scope.WORLD


def hosts_of(addrs: Iterable[str]) -> tuple[str, ...] | None:
    """Return the IP addresses that multiaddrs of one peer lead to; None if one is a name, a relay's, or none of ours.

    What cannot be read off the addresses may lead anywhere.
    """
    found = []
    for text in addrs:
        try:
            addr = parse_addr(text)
            endpoint = tcp_endpoint(addr) or direct_endpoint(addr)
            if endpoint is None:
                return None
            found.append(plain_host(endpoint[0]))
        except ValueError:  # AddressInvalid is one
            return None
    return tuple(dict.fromkeys(found))
