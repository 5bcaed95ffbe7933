"""Knocking at addresses: who answers there, on a connection made for that alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from multiaddr import Multiaddr

from swarm.doctor.checks import in_thread
from swarm.errors import AddressInvalid, PeerUnreachable, ProtocolError
from swarm.network import parse_addr, peer_id_of
from swarm.network.addresses import direct_endpoint, plain_host, tcp_endpoint
from swarm.network.residents import resident
from swarm.types import PeerId

KNOCK = 3.0
"""Seconds for one address: six round trips of 0.3 s and a lost packet."""

MAX_KNOCKS = 8
"""Addresses of one peer that are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knock:
    """What came of one address.

    Attributes:
        addr: The address, as it was given.
        wanted: Who should live there.
        found: Who does; None if no peer answered.
        why: Why none did.
        host: The IP address that it leads to, "" if that is not known.
        port: The TCP port, 0 if it has none.
        is_direct: Whether it is an address of direct channels, and not of libp2p.
        can_tell: Whether it is of a kind that can be knocked at: relays' and QUIC's are not.
    """

    addr: str
    wanted: PeerId
    found: PeerId | None = None
    why: str = ""
    host: str = ""
    port: int = 0
    is_direct: bool = False
    can_tell: bool = True

    @property
    def is_reached(self) -> bool:
        """Whether the one who should live there does."""
        return self.found == self.wanted


async def knock_all(addrs: Sequence[str]) -> tuple[Knock, ...]:
    """Knock at all of these at once; each must be a whole multiaddr."""
    return tuple(await asyncio.gather(*(knock(parse_addr(addr)) for addr in addrs)))


async def knock(addr: Multiaddr) -> Knock:
    """Knock at one address; never raises for what is found there."""
    wanted, endpoint = peer_id_of(addr), tcp_endpoint(addr) or direct_endpoint(addr)
    if endpoint is None:
        return Knock(addr=str(addr), wanted=wanted, can_tell=False, why="not an address that can be knocked at")
    is_direct, port = tcp_endpoint(addr) is None, endpoint[1]
    hosts: list[str] = []
    found, whys = None, []
    try:
        async with asyncio.timeout(KNOCK):
            hosts = await _hosts(addr, endpoint[0])
            for host in hosts:
                try:
                    found = await resident(_at(host, port, wanted, is_direct=is_direct), timeout=KNOCK)
                    hosts = [host]
                    break
                except (PeerUnreachable, ProtocolError) as error:
                    whys.append(str(error))
    except TimeoutError:
        whys.append(f"no answer within {KNOCK:g} s")
    except (OSError, AddressInvalid):
        whys.append("unknown host name")
    return Knock(
        addr=str(addr),
        wanted=wanted,
        found=found,
        why=whys[0] if whys and found is None else "",
        host=hosts[0] if hosts else "",
        port=port,
        is_direct=is_direct,
    )


async def _hosts(addr: Multiaddr, name: str) -> list[str]:
    """The IP addresses behind `name`, which may be one."""
    try:
        return [plain_host(name)]
    except ValueError:
        kind = next(iter(addr.items()))[0].name
    family = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(kind, socket.AF_UNSPEC)
    found = await in_thread(lambda: socket.getaddrinfo(name, None, family, socket.SOCK_STREAM))
    return list(dict.fromkeys(plain_host(str(entry[4][0])) for entry in found))


def _at(host: str, port: int, peer: PeerId, *, is_direct: bool) -> Multiaddr:
    kind = "ip6" if ":" in host else "ip4"
    return parse_addr(f"/{kind}/{host}/tcp/{port}{'/tls' if is_direct else ''}/p2p/{peer}")
