"""A bootstrap peer's /metrics and /healthz."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from swarm.bootstrap.config import BootstrapConfig
from swarm.directory import Directory
from swarm.directory.readings import read_network
from swarm.network import Peer
from swarm.web import facts, operators_face
from swarm.web.readings import Metric
from swarm.wire.handshake import software_version


@asynccontextmanager
async def metrics(config: BootstrapConfig, peer: Peer, directory: Directory) -> AsyncIterator[str]:
    """Answer at `--metrics-port` until the block is left; yields the URL.

    Raises:
        UsageError, AddressInUse, AddressInvalid: As `operators_face`.
    """

    def read() -> Iterator[Metric]:
        words = {"peer": peer.peer_id, "version": software_version()}
        yield facts("swarm_bootstrap_info", "Who introduces peers here", words)
        yield from read_network(peer, directory)

    def health() -> tuple[bool, str]:
        # Alone is no fault of ours: the first one always is.
        return peer.failure is None, "connected" if directory.is_connected else "alone"

    async with operators_face(
        read, health, host=config.metrics_host, port=config.metrics_port or 0, key_file=config.metrics_key_file
    ) as url:
        yield url
