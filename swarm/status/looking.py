"""Joining as a client does, looking once, leaving."""

from __future__ import annotations

import time
from dataclasses import replace

from swarm.directory import Directory
from swarm.membership import Joined
from swarm.monitor import SwarmState, survey
from swarm.network import NetworkConfig, Peer, parse_addrs


async def look(joined: Joined, *, model: str | None, timeout: float) -> SwarmState:
    """Return what the swarm looks like now, or only `model` of it.

    Raises:
        AddressInvalid: An initial peer's address cannot be used.
        SwarmUnreachable: Nobody answers within `timeout` seconds.
    """
    async with (
        Peer.open(NetworkConfig(is_listening=False, swarm_key=joined.key)) as peer,
        Directory.open(peer, initial_peers=parse_addrs(joined.peers), client_mode=True) as directory,
    ):
        await directory.wait_connected(timeout)
        views = [await directory.view(model)] if model is not None else await directory.views()
    state = survey(views, now=time.time())
    return replace(state, models=tuple(each for each in state.models if model in (None, each.name)))
