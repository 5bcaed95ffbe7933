"""Joining a swarm as the doctor does: as a client that stores and announces nothing, and listens only if it is to
find out whether others get here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from multiaddr import Multiaddr

from swarm.directory import Directory
from swarm.directory import Timeouts as DirectoryTimeouts
from swarm.doctor.config import DoctorConfig
from swarm.errors import AddressInUse, Busy
from swarm.network import Closed, NetworkConfig, Peer, Timeouts
from swarm.swarm_key import SwarmKey

NETWORK = Timeouts(startup=6.0, dial=2.0, direct=1.2, hello=2.0, ask=2.5, close=0.5)
"""Shorter than a server's: a look that takes longer finds nothing that it can still tell."""

DIRECTORY = DirectoryTimeouts(join=2.5, call=1.5, get=3.5)


@dataclass(frozen=True, slots=True)
class Joined:
    """Our place in the swarm.

    Attributes:
        peer: We.
        directory: What we see.
        is_listening: Whether others could dial us.
        taken: Why we do not listen, although we should.
    """

    peer: Peer
    directory: Directory
    is_listening: bool
    taken: AddressInUse | None


def listening(config: DoctorConfig) -> tuple[str, ...]:
    """Return where the server that is asked about would listen."""
    return config.host_maddrs or (f"/ip4/0.0.0.0/tcp/{config.port or 0}",)


@asynccontextmanager
async def join(config: DoctorConfig, addrs: Sequence[Multiaddr], key: SwarmKey | None) -> AsyncIterator[Joined]:
    """Take part in the swarm until the block is left.

    Raises:
        AddressInvalid: An address to listen at or to announce that cannot work.
        DaemonDied: Our own libp2p daemon does not start.
    """
    taken = None
    server = NetworkConfig(
        host_maddrs=listening(config),
        announce_maddrs=config.announce_maddrs,
        use_relays=False,
        timeouts=NETWORK,
        swarm_key=key,
    )
    client = NetworkConfig(is_listening=False, timeouts=NETWORK, swarm_key=key)
    async with AsyncExitStack() as stack:
        try:
            peer = await stack.enter_async_context(Peer.open(server if config.is_for_a_server else client))
        except AddressInUse as error:
            taken = error
            peer = await stack.enter_async_context(Peer.open(client))
        is_listening = config.is_for_a_server and taken is None
        if is_listening:
            # So that the direct port is open, too, when others dial us back.
            await peer.serve(lambda channel: Closed(Busy("a doctor serves no blocks")))
        directory = await stack.enter_async_context(
            Directory.open(peer, initial_peers=addrs, client_mode=True, timeouts=DIRECTORY)
        )
        yield Joined(peer, directory, is_listening, taken)
