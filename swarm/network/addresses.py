"""Multiaddrs at our border: parsed once with py-multiaddr, whole, each ending in /p2p/ID."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from hivemind.p2p import PeerID
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from swarm.errors import AddressInvalid
from swarm.types import PeerId

Endpoint = tuple[str, int]
"""Host and TCP port."""

_MAX_LENGTH = 1024
_EXAMPLE = "/ip4/203.0.113.7/tcp/31337/p2p/12D3KooW..."


def parse_addr(text: str) -> Multiaddr:
    """Return the whole dialable multiaddr that `text` writes.

    Raises:
        AddressInvalid: No multiaddr, or its /p2p/ID is missing or no peer id.
    """
    addr = parse_host_addr(text)
    try:
        peer_id_of(addr)
    except AddressInvalid:
        raise AddressInvalid(f"address {text!r:.120} does not end in /p2p/ID; write it like {_EXAMPLE}") from None
    return addr


def parse_addrs(texts: Iterable[str]) -> tuple[Multiaddr, ...]:
    """Return `parse_addr` of each; the first bad one is named.

    Raises:
        AddressInvalid: As `parse_addr`.
    """
    return tuple(parse_addr(text) for text in texts)


def parse_host_addr(text: str) -> Multiaddr:
    """Return the multiaddr that `text` writes, with or without a /p2p/ID.

    Raises:
        AddressInvalid: It cannot be parsed.
    """
    try:
        if len(text) > _MAX_LENGTH or not text.startswith("/"):
            raise ValueError("a multiaddr begins with / and has at most 1024 characters")
        return Multiaddr(text)
    except (MultiaddrError, ValueError, TypeError, LookupError) as error:
        raise AddressInvalid(f"address {text!r:.120} is no multiaddr ({error}); write it like {_EXAMPLE}") from error


def peer_id_of(addr: Multiaddr) -> PeerId:
    """Return the peer id that `addr` ends in.

    Raises:
        AddressInvalid: There is none.
    """
    try:
        text = addr.get_peer_id()
        if not text or not str(addr).endswith(f"/p2p/{text}"):
            raise ValueError("no /p2p at the end")
        PeerID.from_base58(text)
    except (MultiaddrError, ValueError, LookupError) as error:
        raise AddressInvalid(f"address {addr} does not end in /p2p/ID; write it like {_EXAMPLE}") from error
    return PeerId(text)


def without_peer(addr: Multiaddr) -> Multiaddr:
    """Return `addr` without its last /p2p/ID."""
    return addr.decapsulate(f"/p2p/{peer_id_of(addr)}")


def tcp_endpoint(addr: Multiaddr) -> Endpoint | None:
    """Return where `addr` is plain TCP; None for QUIC, relays, direct addresses and what else there is."""
    return _endpoint(addr, ())


def direct_endpoint(addr: Multiaddr) -> Endpoint | None:
    """Return where `addr` is a direct address, /tcp/PORT/tls (see `swarm.network.direct`); else None."""
    return _endpoint(addr, ("tls",))


def host_of(addr: Multiaddr) -> str | None:
    """Return the IP address of a plain TCP address as everybody writes it; None for all others."""
    endpoint = tcp_endpoint(addr)
    try:
        return None if endpoint is None else plain_host(endpoint[0])
    except (ValueError, MultiaddrError):  # a name, or bytes of a kind that we do not know
        return None


def plain_host(text: str) -> str:
    """Return an IP address as everybody writes it: that of IPv4 also where a socket of IPv6 shows it.

    Raises:
        ValueError: It is none.
    """
    address = ip_address(text.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def _endpoint(addr: Multiaddr, above: tuple[str, ...]) -> Endpoint | None:
    parts = [(protocol.name, value) for protocol, value in addr.items()]
    names = tuple(name for name, _ in parts)
    if names and names[-1] == "p2p":
        names = names[:-1]
    if names[1:] != ("tcp", *above) or names[0] not in ("ip4", "ip6", "dns", "dns4", "dns6"):
        return None
    return str(parts[0][1]), int(str(parts[1][1]))


def is_loopback(addr: Multiaddr) -> bool:
    """Whether `addr` only works on this machine."""
    return str(addr).startswith(("/ip4/127.", "/ip6/::1/"))


def best_first(addrs: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
    """Return `addrs` with those first that others can use: loopback ones work on this machine only."""
    return tuple(sorted(addrs, key=is_loopback))
