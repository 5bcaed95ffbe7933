"""What a starting server tells its owner, in the order in which it finds out; see `docs/run-a-server.md`."""

from __future__ import annotations

from swarm.directory import Directory
from swarm.log import get_logger
from swarm.network import Peer, parse_addr
from swarm.network.addresses import is_loopback
from swarm.server.config import ServerConfig
from swarm.types import ServerRecord
from swarm.wire.handshake import software_version

logger = get_logger(__name__)


def tell_start(config: ServerConfig, peer: Peer, directory: Directory) -> None:
    """Say who we are, and whether others are there; initial peers that cannot be reached have been named by then."""
    key = "a new identity, for this run only: --identity-path FILE keeps one"
    if config.identity_path is not None:
        key = f"identity from {config.identity_path}"
    logger.info("swarm %s: server %s (%s)", software_version(), peer.peer_id, key)
    if config.new_swarm:
        logger.info("a new swarm: nobody else is in it yet")
    elif directory.is_connected:
        count = len(directory.members)
        logger.info("in the swarm: %d other member%s known so far", count, "" if count == 1 else "s")


def ready_texts(record: ServerRecord, addr: str) -> list[str]:
    """Return what the owner of a server that is ready may want to do next.

    Args:
        addr: Our best address.
    """
    blocks = f"all {record.num_blocks} blocks of {record.model}"
    if len(record.span) < record.num_blocks:
        blocks = (
            f"blocks {record.span} of {record.model}; it has 0:{record.num_blocks}, the others are for other servers"
        )
    texts = [
        f"serving {blocks}",
        f"others serve and ask with: --initial-peers {addr}",
        "Ctrl-C hands sessions over to other servers, then ends",
    ]
    if is_loopback(parse_addr(addr)):
        texts.append("that address works on this machine only: --port N listens for other machines, too")
    return texts
