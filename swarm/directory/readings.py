"""What a member of the swarm can tell of its place in it: neighbours, channels, bytes; for /metrics."""

from __future__ import annotations

from collections.abc import Iterator

from swarm.directory.directory import Directory
from swarm.network import Peer
from swarm.web import counter, gauge
from swarm.web.readings import Metric


def read_network(peer: Peer, directory: Directory) -> Iterator[Metric]:
    """Read them off now."""
    traffic = peer.traffic
    yield gauge("swarm_dht_neighbours", "Members of the directory that we know", len(directory.members))
    yield gauge(
        "swarm_channels",
        "Channels to other peers, by what carries them",
        {carrier: each.channels for carrier, each in traffic.items()},
        "carrier",
    )
    yield counter(
        "swarm_received_bytes_total",
        "Bytes received over channels; the directory's own calls are not among them",
        {carrier: each.bytes_in for carrier, each in traffic.items()},
        "carrier",
    )
    yield counter(
        "swarm_sent_bytes_total",
        "Bytes sent over channels; the directory's own calls are not among them",
        {carrier: each.bytes_out for carrier, each in traffic.items()},
        "carrier",
    )
