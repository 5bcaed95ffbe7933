from __future__ import annotations

import pytest

from swarm.errors import PeerUnreachable, ProtocolError
from swarm.network import NetworkConfig, Peer, circuits
from swarm.network.circuits import MAX_ADDRS


async def test_who_relays_nothing_is_told_apart() -> None:
    async with Peer.open(NetworkConfig()) as one, Peer.open(NetworkConfig()) as other:
        await one.dial(other.addrs[0])
        with pytest.raises(PeerUnreachable, match="it has lost our reservation"):
            await circuits._check_circuit(one._daemon, other.peer_id, one.peer_id)
        with pytest.raises(PeerUnreachable, match="no stream of"):
            await one.reserve(one.peer_id)
        # A daemon that nobody has told that it is public relays by libp2p's own limits. What a whole relay is worth
        # needs hosts with public addresses: tests/swarm/test_hidden_server.py.
        with pytest.raises(PeerUnreachable, match="it passes on no more than 131072 bytes"):
            await one.reserve(other.peer_id)
        assert await circuits._check_circuit(one._daemon, other.peer_id, one.peer_id) is None


@pytest.mark.parametrize("packed", [b"\x08", b"\x08\xff", b"\x1a\x05ab", b"\x0d\x00\x00\x00\x00", b"\xff" * 12])
def test_an_answer_that_makes_no_sense_is_the_relays_fault(packed: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(circuits._fields(packed))


def test_fields_are_read_as_they_are_written() -> None:
    packed = circuits._packed(1, 300) + circuits._packed(2, b"x" * 200) + circuits._packed(1, 0)
    assert list(circuits._fields(packed)) == [(1, 300), (2, b"x" * 200), (1, 0)]
    assert MAX_ADDRS * 2 <= 16  # of two relays: what a record has room for
