from __future__ import annotations

import pytest

from swarm.errors import PeerUnreachable, ProtocolError
from swarm.network import NetworkConfig, Peer, circuits, dialling
from swarm.network.circuits import MAX_ADDRS
from tests.network.ends import Inbox, result


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


async def test_whoever_came_through_a_relay_is_met_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuits, "MIN_BYTES", 1)
    dead = NetworkConfig(announce_maddrs=("/ip4/127.0.0.1/tcp/1",))
    async with (
        Peer.open(NetworkConfig()) as relay,
        Peer.open(dead) as hidden,
        Peer.open(NetworkConfig()) as other,
    ):
        inbox = Inbox()
        await hidden.serve(lambda channel: inbox)
        await hidden.dial(relay.addrs[0])
        reservation = await hidden.reserve(relay.peer_id)
        circuit = f"{relay.addrs[0]}/p2p-circuit/p2p/{hidden.peer_id}"
        assert [str(addr) for addr in reservation.addrs] == [circuit]
        assert (await hidden.reserve(relay.peer_id)).expires_at >= reservation.expires_at > 1.7e9
        channel = await other.channel(hidden.peer_id, [circuit])
        channel.send(result(1), b"through the relay")
        assert (await inbox.next())[1] == b"through the relay"
        assert (await other.ask_dial_back(hidden.peer_id, [])).text == "you did not dial me yourself"

        async def leads_there() -> list[str]:
            return await dialling._connections(hidden._daemon, other.peer_id)

        assert all("/p2p-circuit" in addr for addr in await leads_there())
        gone = str(other.addrs[0]).replace(other.addrs[0].value_for_protocol("tcp"), "1")
        with pytest.raises(PeerUnreachable, match="cannot be dialled"):
            await hidden.meet(other.peer_id, [gone])
        assert channel.is_open
        await hidden.meet(other.peer_id, [str(addr) for addr in other.addrs])
        assert [addr for addr in await leads_there() if "/p2p-circuit" not in addr]
        await channel.wait_closed()
        await hidden.meet(other.peer_id, [gone])  # nothing is left to do
        again = await other.channel(hidden.peer_id, [circuit])
        assert again.is_open and not any("/p2p-circuit" in addr for addr in await leads_there())


@pytest.mark.parametrize("packed", [b"\x08", b"\x08\xff", b"\x1a\x05ab", b"\x0d\x00\x00\x00\x00", b"\xff" * 12])
def test_an_answer_that_makes_no_sense_is_the_relays_fault(packed: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(circuits._fields(packed))


def test_fields_are_read_as_they_are_written() -> None:
    packed = circuits._packed(1, 300) + circuits._packed(2, b"x" * 200) + circuits._packed(1, 0)
    assert list(circuits._fields(packed)) == [(1, 300), (2, b"x" * 200), (1, 0)]
    assert MAX_ADDRS * 2 <= 16  # of two relays: what a record has room for
