"""Connecting to a peer at given addresses, and saying in plain words why that failed.

Before libp2p is asked, a plain TCP connection is tried: libp2p refuses to dial again for 5 s and
more after a failure, growing with each, so that a peer that comes back would be found too late.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence

from hivemind.p2p import PeerID
from hivemind.proto import p2pd_pb2
from multiaddr import Multiaddr

from swarm.errors import PeerUnreachable
from swarm.network.addresses import tcp_endpoint
from swarm.network.daemon import Daemon
from swarm.types import PeerId

BACKOFF = "it failed a moment ago, and is given some seconds"
"""The reason of a dial that libp2p did not even try: it says less than the one before."""

_RELAYED = "/p2p-circuit"

_REASONS = (
    (r"peer id mismatch", "another peer lives there (wrong peer id)"),
    (r"connection refused", "connection refused"),
    (r"i/o timeout|deadline exceeded", "timed out"),
    (r"no route to host|network is unreachable|host is down", "no route to the host"),
    (r"no such host", "unknown host name"),
    (r"dial to self", "that is this very peer"),
    (r"routing: not found|no addresses|failed to find any peer", "no address is known"),
    (r"failed to negotiate security", "something else than a peer listens there"),
    (r"dial backoff", BACKOFF),
    (r"NO_RESERVATION", "the relay does not know it any more"),
    (r"protocols? not supported", "it is no peer that we can talk to (it does not speak our protocol)"),
)


async def connect(daemon: Daemon, peer: PeerId, addrs: Sequence[Multiaddr], *, timeout: float) -> None:
    """Let the daemon connect to `peer` at one of `addrs`, which the daemon then remembers.

    Args:
        addrs: Where to dial, with or without /p2p/ID; empty are those that the daemon knows.
        timeout: Seconds in all.

    Raises:
        PeerUnreachable: It cannot be reached there; the message names address and reason.
        DaemonDied: Our own daemon is gone.
    """
    where = ", ".join(str(addr) for addr in addrs) or f"peer {peer}"
    try:
        async with asyncio.timeout(timeout):
            living = await _living(addrs)
            request = p2pd_pb2.ConnectRequest(
                peer=PeerID.from_base58(peer).to_bytes(), addrs=[addr.to_bytes() for addr in living]
            )
            response = await daemon.request(
                p2pd_pb2.Request(type=p2pd_pb2.Request.CONNECT, connect=request), timeout=timeout
            )
    except TimeoutError as error:
        raise PeerUnreachable(f"{where}: timed out after {timeout:g} s") from error
    except OSError as error:
        raise PeerUnreachable(f"{where}: {os_reason(error)}") from error
    if response.type == p2pd_pb2.Response.ERROR:
        raise PeerUnreachable(f"{where}: {reason(response.error.msg)}")


async def connect_past_relays(daemon: Daemon, peer: PeerId, addrs: Sequence[Multiaddr], *, timeout: float) -> None:
    """Let the daemon be connected to `peer` without a relay between, at one of `addrs`, all plain TCP.

    A connection through a relay stands in the way of any other, and is given up once `peer` is seen to be there.

    Raises:
        PeerUnreachable, DaemonDied: As `connect`.
    """
    found = await _connections(daemon, peer)
    if any(_RELAYED not in addr for addr in found):
        return
    if found:
        try:
            async with asyncio.timeout(timeout):
                await _living(addrs)
        except (OSError, TimeoutError) as error:
            raise PeerUnreachable(f"peer {peer}: cannot be dialled: {error}") from error
        gone = p2pd_pb2.DisconnectRequest(peer=PeerID.from_base58(peer).to_bytes())
        await daemon.request(p2pd_pb2.Request(type=p2pd_pb2.Request.DISCONNECT, disconnect=gone))
    await connect(daemon, peer, addrs, timeout=timeout)


async def is_connected(daemon: Daemon, peer: PeerId) -> bool:
    """Whether the daemon has a connection to `peer` at this moment."""
    try:
        return bool(await _connections(daemon, peer))
    except TimeoutError:  # a daemon with too much to do; what follows will tell
        return False


async def _connections(daemon: Daemon, peer: PeerId) -> list[str]:
    """Where the daemon's connections to `peer` lead."""
    response = await daemon.request(p2pd_pb2.Request(type=p2pd_pb2.Request.LIST_PEERS))
    wanted = PeerID.from_base58(peer).to_bytes()
    return [str(Multiaddr(addr)) for entry in response.peers if entry.id == wanted for addr in entry.addrs]


def reason(text: str) -> str:
    """Return the daemon's error `text` in few plain words."""
    for pattern, words in _REASONS:
        if re.search(pattern, text, re.IGNORECASE):
            return words
    return " ".join(text.split())[-160:]


async def _living(addrs: Sequence[Multiaddr]) -> list[Multiaddr]:
    """The addresses that libp2p shall try: those that cannot be probed, and the first that answers.

    Raises OSError, the last one seen, if all can be probed and none answers.
    """
    endpoints = {addr: tcp_endpoint(addr) for addr in addrs}
    opaque = [addr for addr, endpoint in endpoints.items() if endpoint is None]
    pending = {asyncio.create_task(_probe(endpoint)): addr for addr, endpoint in endpoints.items() if endpoint}
    failure: OSError | None = None
    found: list[Multiaddr] = []
    try:
        waiting = set(pending)
        while waiting and not found:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    found.append(pending[task])
                elif isinstance(error, OSError):
                    failure = error
                else:
                    raise error
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
    if failure is not None and not found and not opaque:
        raise failure
    return found + opaque


async def _probe(endpoint: tuple[str, int]) -> None:
    _, writer = await asyncio.open_connection(*endpoint)
    writer.close()


def os_reason(error: OSError) -> str:
    """Return the operating system's reason in few plain words."""
    if isinstance(error, socket.gaierror):
        return "unknown host name"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return reason(error.strerror or str(error))
