"""What a peer of the network is told at its start, and every deadline of this room."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from swarm.swarm_key import SwarmKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Deadlines in seconds, each with its reason.

    Attributes:
        startup: For the libp2p daemon to come up; it takes 0.3 s, 10 times that on a loaded machine.
        control: For one answer of our own daemon that needs no network.
        dial: For a connection to a peer, handshake included: six round trips of 0.3 s and one lost packet.
        direct: For a direct connection, TLS included: three round trips of 0.3 s; libp2p is tried after it.
        direct_retry: So long after a failed direct connection the next channel goes through libp2p at once.
        dial_back: For one fresh connection to somebody who asked to be dialled back: as `direct`.
        ask: For the whole of asking somebody to dial us back: its dial, a stream, two round trips and `dial_back`.
        hello: For the other side's Hello on a fresh channel.
        heartbeat_interval: We send something at least this often, so that the other side knows us alive.
        heartbeat_timeout: A channel on which nothing came for so long is dead: five heartbeats were lost. This
            notices a frozen process behind a live daemon, which libp2p never does.
        frame: For a whole frame from its first byte on: 64 MiB at 4.5 Mbit/s. Bounds what a peer that
            trickles bytes can hold of our memory.
        close: For a channel to send what is still buffered, and for the daemon to end, before we insist.
    """

    startup: float = 15.0
    control: float = 5.0
    dial: float = 3.0
    direct: float = 1.0
    direct_retry: float = 300.0
    dial_back: float = 1.0
    ask: float = 2.5
    hello: float = 5.0
    heartbeat_interval: float = 2.0
    heartbeat_timeout: float = 10.0
    frame: float = 120.0
    close: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """How a peer takes part in the network.

    Attributes:
        host_maddrs: Where to listen, without /p2p; port 0 is any free one.
        announce_maddrs: Addresses that others are told instead of the detected ones, without /p2p; those that end in
            /tls are where direct connections arrive, for who stands behind a forwarded port.
        is_listening: Whether others can dial us; a pure client listens on nothing.
        identity_path: File of the ed25519 key, created when missing; None is a fresh key for this run.
        use_port_mapping: Ask the router (UPnP, NAT-PMP) to let others in.
        use_direct: Offer and use direct connections (`swarm.network.direct`) where they can be had.
        use_relays: Reserve a place at relays when nobody can dial us (`swarm.server.reachability` finds out).
        max_channels: Inbound channels in all; each costs 32 KiB and three file descriptors.
        max_channels_per_peer: Inbound channels of one peer; an honest one needs one, or two while it reconnects.
        timeouts: See `Timeouts`.
        swarm_key: Only peers that have it are talked to; None talks to those that have none.
    """

    host_maddrs: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    announce_maddrs: tuple[str, ...] = ()
    is_listening: bool = True
    identity_path: Path | None = None
    use_port_mapping: bool = False
    use_direct: bool = True
    use_relays: bool = True
    max_channels: int = 4096
    max_channels_per_peer: int = 8
    timeouts: Timeouts = field(default_factory=Timeouts)
    swarm_key: SwarmKey | None = None
