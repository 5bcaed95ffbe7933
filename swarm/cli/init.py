"""`swarm init`: begin a private swarm, and print the line with which others join it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, ip_address
from pathlib import Path

from swarm.bootstrap.config import PORT
from swarm.cli.flags import parse_flags
from swarm.cli.run import run_plain
from swarm.errors import UsageError
from swarm.flag import flag
from swarm.membership import JoinedFile, JoinLine
from swarm.swarm_key import SwarmKey

_MAX_HOSTS = 4
_NOT_FOR_OTHERS = ("lo", "docker", "br-", "veth", "virbr", "cni", "flannel")
"""Beginnings of the names of networks that end inside this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitConfig:
    """Begin a private swarm: make its key, join it, and print the line with which other machines join it."""

    initial_peers: tuple[str, ...] = field(
        default=(),
        metadata=flag("peers that run with --swarm-key already; left out: `swarm bootstrap` here", metavar="ADDR"),
    )
    swarm_key: str | None = field(
        default=None, metadata=flag("key file to use; left out: a new key, kept with your settings", metavar="FILE")
    )
    host: tuple[str, ...] = field(
        default=(),
        metadata=flag(
            "IPv4 addresses or names of this machine, as others reach it; left out: found out", metavar="HOST"
        ),
    )
    port: int = field(default=PORT, metadata=flag("TCP port of `swarm bootstrap` here"))
    debug: bool = field(default=False, metadata=flag("log more, and show tracebacks"))

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise UsageError(f"--port {self.port}: give 1 to 65535, for others have to know it")
        if self.initial_peers and self.host:
            raise UsageError("--initial-peers and --host exclude each other: they introduce peers, or this machine")


def main(argv: Sequence[str] | None = None) -> int:
    """Begin a private swarm; return the exit status."""
    return run_plain(_init, parse_flags(InitConfig, argv, prog="swarm init"))


def _init(config: InitConfig) -> None:
    last = JoinedFile.read()
    if last is not None:
        raise UsageError("you are in a swarm already; `swarm invite` prints its join line, `swarm leave` leaves it")
    key = SwarmKey.read(Path(config.swarm_key)) if config.swarm_key else SwarmKey.generate()
    if config.initial_peers:
        joined = JoinedFile(JoinLine(config.initial_peers, key))
    else:
        joined = JoinedFile(JoinLine(_own_addrs(config), key), bootstrap_port=config.port)
    text = joined.line.encode()
    joined.write()
    print(text)
    sys.stdout.flush()
    print(_next_steps(joined), file=sys.stderr)


def _own_addrs(config: InitConfig) -> tuple[str, ...]:
    from swarm.network import Identity  # loads hivemind

    hosts = config.host or _found_hosts()
    if not hosts:
        raise UsageError("this machine has no network that others could reach it on; give --host")
    identity = Identity.load(JoinedFile.bootstrap_identity())
    identity.close()
    return tuple(f"{_multiaddr(host)}/tcp/{config.port}/p2p/{identity.peer_id}" for host in hosts)


def _multiaddr(host: str) -> str:
    try:
        return f"/ip4/{IPv4Address(host)}"
    except AddressValueError:
        pass
    if ":" in host or "/" in host or not host.isascii():
        raise UsageError(f"--host {host!r}: give an IPv4 address or a name; for all else see --initial-peers")
    return f"/dns4/{host}"


def _found_hosts() -> tuple[str, ...]:
    """This machine's IPv4 addresses in networks that have other machines, that of the way out first."""
    import psutil

    found = [
        address.address
        for name, addresses in psutil.net_if_addrs().items()
        if not name.startswith(_NOT_FOR_OTHERS)
        for address in addresses
        if address.family is socket.AF_INET
    ]
    usable = [host for host in found if not (ip_address(host).is_loopback or ip_address(host).is_link_local)]
    first = _way_out()
    return tuple(sorted(usable, key=lambda host: host != first))[:_MAX_HOSTS]


def _way_out() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only the route is looked up
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _next_steps(joined: JoinedFile) -> str:
    assert joined.line.key is not None
    port = joined.bootstrap_port
    here = (
        f"here:           swarm bootstrap       keep it running; others reach it at TCP port {port}\n" if port else ""
    )
    return (
        f"\nYou are in the private swarm {joined.line.key.fingerprint}. Whoever has the line above is in it.\n"
        f"{here}"
        "other machines: swarm join -          and paste the line\n"
        "on all of them: swarm server, swarm gateway, ... need no flags to find each other"
    )


if __name__ == "__main__":
    sys.exit(main())
