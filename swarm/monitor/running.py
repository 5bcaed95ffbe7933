"""What a monitor does: it joins the swarm as a client does, looks, and shows."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

from swarm.blocks.files.bundled import default_cache
from swarm.directory import Directory
from swarm.membership import Joined
from swarm.monitor.api import build_app
from swarm.monitor.asking import Asker
from swarm.monitor.board import Board
from swarm.monitor.config import MonitorConfig
from swarm.monitor.history import History
from swarm.monitor.watcher import Watcher
from swarm.network import NetworkConfig, Peer, parse_addrs, peer_id_of
from swarm.web import Keys, require_keys, serving


async def monitor(config: MonitorConfig, joined: Joined) -> None:
    """Show the swarm until cancelled; prints the `ready` line after the first view.

    Raises:
        UsageError: The configuration cannot work, the history file's included.
        AddressInvalid, AddressInUse: An initial peer's address, or the port to listen on.
        DaemonDied: The libp2p daemon ended.
    """
    keys = Keys.read(config.api_key, config.api_keys_file)
    require_keys(config.host, keys)
    addrs = parse_addrs(joined.peers)
    board = Board()
    async with (
        History.open(config.history or default_history(joined.peers), days=config.retention) as history,
        Peer.open(NetworkConfig(is_listening=False, swarm_key=joined.key)) as peer,
        Directory.open(peer, initial_peers=addrs, client_mode=True) as directory,
        serving(build_app(board, history, keys=keys, asker=Asker(peer)), host=config.host, port=config.port) as url,
        asyncio.TaskGroup() as group,
    ):
        watcher = Watcher(directory, board, history, interval=config.interval)
        group.create_task(watcher.run())
        await watcher.has_looked.wait()
        print(f"ready url={url}", flush=True)


def default_history(initial_peers: Sequence[str]) -> Path:
    """Return where the history of the swarm with these initial peers is kept: one file for each swarm."""
    peers = " ".join(sorted(peer_id_of(addr) for addr in parse_addrs(initial_peers)))
    return default_cache() / "monitor" / f"{hashlib.sha256(peers.encode()).hexdigest()[:12]}.sqlite"
