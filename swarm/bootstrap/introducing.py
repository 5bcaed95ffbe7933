"""What a bootstrap peer does: be there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from swarm.bootstrap.config import BootstrapConfig
from swarm.directory import Directory
from swarm.errors import DaemonDied, HopRefused
from swarm.membership import Joined
from swarm.network import Closed, NetworkConfig, Peer, best_first, parse_addrs


async def introduce(config: BootstrapConfig, joined: Joined) -> None:
    """Introduce peers until cancelled; prints the addresses, then the `ready` line, when others can come.

    Raises:
        AddressInvalid, AddressInUse, IdentityInUse, UsageError: The configuration cannot work.
        DaemonDied: The libp2p daemon ended, or gives no address to dial.
    """
    initial_peers = parse_addrs(joined.peers)
    network = NetworkConfig(
        host_maddrs=config.host_maddrs or (f"/ip4/0.0.0.0/tcp/{config.port}",),
        announce_maddrs=config.announce_maddrs,
        identity_path=config.identity_path,
        use_direct=False,  # there is nothing to push here
        swarm_key=joined.key,
    )
    async with Peer.open(network) as peer, Directory.open(peer, initial_peers=initial_peers) as directory:
        if not peer.addrs:
            raise DaemonDied(f"the libp2p daemon listens nowhere of {', '.join(network.host_maddrs)}")
        # New servers ask whom they know to dial them back, to see whether others reach them.
        await peer.serve(lambda channel: Closed(HopRefused("this peer introduces others, it serves no blocks")))
        best, *others = best_first(peer.addrs)
        async with _face(config, peer, directory) as metrics:
            for addr in others:
                print(f"addr={addr}")
            print(f"ready peer={peer.peer_id} addr={best}{metrics}", flush=True)
            await peer.wait_failed()


@asynccontextmanager
async def _face(config: BootstrapConfig, peer: Peer, directory: Directory) -> AsyncIterator[str]:
    """Answer at `--metrics-port`, if one is given; yields what the `ready` line says of it."""
    if config.metrics_port is None:
        yield ""
        return
    from swarm.bootstrap.metrics import metrics  # loads aiohttp

    async with metrics(config, peer, directory) as url:
        yield f" metrics={url}"
