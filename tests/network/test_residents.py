"""Who lives at an address: a real peer's daemon and its direct port say it; whatever else listens is told from both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from multiaddr import Multiaddr

from swarm.errors import AddressInvalid, Busy, PeerUnreachable, ProtocolError
from swarm.network import Closed, Identity, NetworkConfig, Peer, parse_addr
from swarm.network.identity import peer_id_in
from swarm.network.residents import resident


@pytest.mark.slow
async def test_a_peer_tells_its_id_at_both_of_its_ports_whatever_the_address_says() -> None:
    async with Peer.open(NetworkConfig()) as peer, Peer.open(NetworkConfig()) as other:
        await peer.serve(lambda channel: Closed(Busy("not now")))
        for addr in (*peer.addrs, *peer.direct_addrs):
            assert await resident(addr, timeout=3) == peer.peer_id
            asked = parse_addr(str(addr).replace(peer.peer_id, other.peer_id))
            assert await resident(asked, timeout=3) == peer.peer_id
        addr = peer.addrs[0]
        relayed = parse_addr(f"{addr}/p2p-circuit/p2p/{other.peer_id}")
        with pytest.raises(AddressInvalid):
            await resident(relayed, timeout=3)
    with pytest.raises(PeerUnreachable, match="connection refused"):
        await resident(addr, timeout=3)


def chatter(words: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
    def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        writer.write_eof()

    return answer


@pytest.mark.parametrize(
    "words", [b"", b"SSH-2.0-OpenSSH_9.2\r\n" * 9, b"\x13/multistream/1.0.0\n", b"\x13/multistream/1.0.0\n\x03na\n" * 9]
)
@pytest.mark.parametrize("end", ["", "/tls"])
async def test_something_else_that_listens_is_no_peer(words: bytes, end: str) -> None:
    identity = Identity.load(None)
    identity.close()
    async with await asyncio.start_server(chatter(words), "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises((ProtocolError, PeerUnreachable)):
            await resident(Multiaddr(f"/ip4/127.0.0.1/tcp/{port}{end}/p2p/{identity.peer_id}"), timeout=3)


async def test_who_says_nothing_is_given_up_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listener:
        addr = Multiaddr(f"/ip4/127.0.0.1/tcp/{listener.sockets[0].getsockname()[1]}")
        with pytest.raises(PeerUnreachable, match="no answer within"):
            await resident(addr, timeout=0.2)


def test_a_key_files_peer_id_is_read_while_another_process_has_the_key(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "key"
    identity = Identity.load(path)
    assert peer_id_in(path) == identity.peer_id
    identity.close()
