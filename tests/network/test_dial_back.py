from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from swarm.errors import AddressInvalid, HopRefused, PeerUnreachable
from swarm.network import Closed, NetworkConfig, Peer, Timeouts, parse_addr
from swarm.network import dial_back as dialling_back
from swarm.network.dial_back import is_of_asker, permitted
from swarm.types import PeerId
from swarm.wire import DialBack, DialedBack
from tests.network.ends import pair

ASKER = PeerId("12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL")
OTHER = PeerId("12D3KooWSA4ogwY46oyXWqXRfHxvNucdtiW9eUTZf23xaBYfpS9P")


@pytest.mark.parametrize(
    ("host", "seen", "is_allowed"),
    [
        ("8.8.8.8", "8.8.8.8", True),
        ("8.8.8.8", "::ffff:8.8.8.8", True),
        ("8.8.4.4", "8.8.8.8", False),
        ("10.0.0.7", "8.8.8.8", False),
        ("127.0.0.1", "8.8.8.8", False),
        ("8.8.8.8", "10.0.0.7", False),
        ("10.1.2.3", "10.0.0.7", True),
        ("127.0.0.1", "10.0.0.7", False),
        ("10.0.0.7", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", False),
        ("2001:4860::1", "2001:4860::1", True),
        ("::1", "127.0.0.1", False),
        ("victim.example", "8.8.8.8", False),
    ],
)
def test_only_the_address_that_an_asker_comes_from_is_dialled_for_him(host: str, seen: str, is_allowed: bool) -> None:
    assert is_of_asker(host, seen) is is_allowed


@pytest.mark.parametrize(
    "text",
    [
        f"/ip4/8.8.8.8/tcp/1/p2p/{OTHER}",
        f"/ip4/8.8.8.8/udp/1/quic-v1/p2p/{ASKER}",
        f"/dns4/victim.example/tcp/1/p2p/{ASKER}",
        f"/ip4/8.8.4.4/tcp/1/p2p/{OTHER}/p2p-circuit/p2p/{ASKER}",
        f"/ip4/8.8.8.8/tcp/1/p2p/{OTHER}/p2p-circuit/p2p/{ASKER}",
        "/ip4/8.8.8.8/tcp/1",
        "rubbish",
    ],
)
def test_nothing_but_own_tcp_addresses_is_dialled(text: str) -> None:
    assert str(permitted(f"/ip4/8.8.8.8/tcp/1/tls/p2p/{ASKER}", asker=ASKER, seen="8.8.8.8"))
    with pytest.raises((PeerUnreachable, AddressInvalid)):
        permitted(text, asker=ASKER, seen="8.8.8.8")


@asynccontextmanager
async def acquainted() -> AsyncIterator[tuple[Peer, Peer]]:
    """An asker that listens, and a peer that it knows."""
    timeouts = Timeouts(dial_back=0.3)
    async with (
        Peer.open(NetworkConfig(timeouts=timeouts)) as asker,
        Peer.open(NetworkConfig(timeouts=timeouts)) as other,
    ):
        for each in (asker, other):
            await each.serve(lambda channel: Closed(HopRefused("nothing is served here")))
        await asker.dial(other.addrs[0])
        yield asker, other


async def test_a_peer_is_told_at_which_addresses_it_was_reached_and_why_not_at_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with acquainted() as (asker, other):
        me = f"p2p/{asker.peer_id}"
        libp2p, direct = str(asker.addrs[0]), str(asker.direct_addrs[0])
        crossed = direct.replace("/tls/", "/"), libp2p.replace("/p2p/", "/tls/p2p/")
        foreign = str(other.direct_addrs[0]).partition("/p2p/")[0]
        with socket.create_server(("127.0.0.1", 0)) as silent:
            mute = f"/ip4/127.0.0.1/tcp/{silent.getsockname()[1]}/{me}"
            failing = {
                f"/ip4/127.0.0.1/tcp/1/{me}": "refused",
                f"{foreign}/{me}": "another peer lives there",
                mute: "no answer within",
                f"/ip4/8.8.8.8/tcp/1/{me}": "not dialled: you come from 127.0.0.1",
                crossed[0]: "",
                crossed[1]: "",
            }
            answer = await asker.ask_dial_back(other.peer_id, [libp2p, *failing, direct])
        assert (answer.addrs, answer.seen) == ((libp2p, direct), "127.0.0.1")
        for addr, why in failing.items():
            assert addr.partition("/p2p/")[0] in answer.text and why in answer.text
        again = await asker.ask_dial_back(other.peer_id, [libp2p])
        assert (again.addrs, again.seen) == ((), "") and "you asked less than" in again.text
        monkeypatch.setattr(dialling_back, "PAUSE", 0.0)
        assert (await asker.ask_dial_back(other.peer_id, [libp2p])).addrs == (libp2p,)
        monkeypatch.setattr(dialling_back, "MAX_AT_ONCE", 0)
        assert "many others ask" in (await asker.ask_dial_back(other.peer_id, [libp2p])).text
        assert not [channel for channel in asker.channels if channel.is_dialled]  # none is left for others to find


async def test_being_dialled_back_leaves_no_connection_and_no_channel_behind() -> None:
    async with acquainted() as (asker, other):
        answer = await asker.ask_dial_back(other.peer_id, [str(addr) for addr in (*asker.addrs, *asker.direct_addrs)])
        assert len(answer.addrs) == 2
        async with asyncio.timeout(5):
            while asker.channels or other.channels or (asker._direct and asker._direct._entering):
                await asyncio.sleep(0.02)
        channel = await other.channel(asker.peer_id, [str(addr) for addr in asker.direct_addrs])
        assert channel.is_open


async def test_who_cannot_be_asked_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Peer.open(NetworkConfig(timeouts=Timeouts(ask=1.0))) as asker, Peer.open(NetworkConfig()) as other:
        with pytest.raises(PeerUnreachable):
            await asker.ask_dial_back(OTHER, [])
        await asker.dial(other.addrs[0])
        with pytest.raises(PeerUnreachable, match="does not speak our protocol"):
            await asker.ask_dial_back(other.peer_id, [])
        await other.serve(lambda channel: Closed(HopRefused("nothing is served here")))
        monkeypatch.setattr(other._dial_backs, "received", None)
        monkeypatch.setattr("swarm.network.channel.Channel.on_message", ignoring)
        with pytest.raises(PeerUnreachable, match=r"nothing was dialled back within 1 s|no Hello"):
            await asker.ask_dial_back(other.peer_id, [])


def ignoring(self: object, message: object, body: bytearray) -> None:
    """A peer that takes everything and says nothing."""


async def test_answers_that_nobody_waits_for_are_dropped_and_a_closed_door_tells_why() -> None:
    async with pair() as both:
        channel, inbox = await both.connect()
        channel.send(DialedBack(7, ("/ip4/127.0.0.1/tcp/1",)))
        channel.send(DialBack(1, ("rubbish",)))  # its answer is dropped on our side
        both.inbound[0].receiver = Closed(HopRefused("nothing is served here"))
        assert channel.is_open
        addr = parse_addr(f"/ip4/127.0.0.1/tcp/1/p2p/{both.dialler.peer_id}")
        channel.send(DialBack(2, (str(addr),)))
        from tests.network.ends import result

        channel.send(result(1))
        assert "nothing is served here" in str(await inbox.end())
