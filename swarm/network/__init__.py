"""Peers and what flows between them: identity, the libp2p daemon's life, multiaddrs, framed channels.

`Peer.open` starts a peer; `Peer.channel` gives the one long-lived channel to another, `Peer.serve`
accepts those that others dial. What the messages mean is told by `swarm.wire`.
"""

from swarm.network.addresses import best_first, parse_addr, parse_addrs, peer_id_of
from swarm.network.channel import Channel, Receiver
from swarm.network.circuits import Reservation
from swarm.network.config import NetworkConfig, Timeouts
from swarm.network.dial_back import Closed
from swarm.network.identity import Identity, verify
from swarm.network.peer import Peer

__all__ = [
    "Channel",
    "Closed",
    "Identity",
    "NetworkConfig",
    "Peer",
    "Receiver",
    "Reservation",
    "Timeouts",
    "best_first",
    "parse_addr",
    "parse_addrs",
    "peer_id_of",
    "verify",
]
