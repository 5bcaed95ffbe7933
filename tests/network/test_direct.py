from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from swarm.errors import PeerUnreachable
from swarm.network import Channel, Identity, NetworkConfig, Peer, Timeouts, parse_addr
from swarm.network.addresses import direct_endpoint
from swarm.network.direct import MAX_ENTERING, DirectListener, connect
from swarm.network.stream import Stream
from swarm.types import PeerId
from tests.network.ends import Inbox, Pair, pair, result

LOCAL = ("127.0.0.1", 0)


class Door:
    """A direct listener and what came through it."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.identity = Identity.load(None)
        self.entered: asyncio.Queue[PeerId] = asyncio.Queue()
        self.listener = DirectListener(self.identity, lambda stream, peer: self.entered.put_nowait(peer), timeouts)

    async def open(self) -> tuple[str, int]:
        return "127.0.0.1", await self.listener.open([LOCAL])

    async def knock(self, endpoint: tuple[str, int], sent: bytes) -> None:
        """Say `sent` after a TLS handshake; returns when the door hangs up."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(*endpoint, ssl=context, server_hostname="")
        writer.write(sent)
        with suppress(OSError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


def direct_only(peer: Peer) -> list[str]:
    return [str(addr) for addr in peer.direct_addrs]


def both_ways(both: Pair) -> list[str]:
    return [str(addr) for addr in both.listener.addrs] + direct_only(both.listener)


async def channel_to(both: Pair, addrs: list[str]) -> tuple[Channel, Inbox]:
    channel = await both.dialler.channel(both.listener.peer_id, addrs)
    inbox = Inbox()
    channel.receiver = inbox
    return channel, inbox


def is_direct(channel: Channel) -> bool:
    transport = channel._stream._transport
    assert transport is not None
    return transport.get_extra_info("ssl_object") is not None


@pytest.mark.slow
async def test_a_direct_channel_carries_messages_of_any_size_and_both_ends_know_each_other() -> None:
    async with pair() as both:
        channel, inbox = await channel_to(both, direct_only(both.listener))
        assert is_direct(channel) and channel.remote == both.listener.peer_id
        (inbound,) = both.inbound
        assert is_direct(inbound) and inbound.remote == both.dialler.peer_id
        body = os.urandom(20 << 20)
        channel.send(result(1), body)
        assert await both.inboxes[0].next() == (result(1), bytearray(body))
        inbound.send(result(2), body)
        inbound.send(result(3))
        assert await inbox.next() == (result(2), bytearray(body))
        assert await inbox.next() == (result(3), bytearray())
        await channel.close()
        assert await both.inboxes[0].end() is None


@pytest.mark.slow
async def test_only_a_direct_channel_takes_messages_from_any_thread() -> None:
    async with pair() as both:
        slow, _ = await channel_to(both, [str(addr) for addr in both.listener.addrs])
        assert not await asyncio.to_thread(slow.try_send_now, [(result(1), b"body")])
        await slow.close()
        fast, _ = await channel_to(both, direct_only(both.listener))
        assert is_direct(fast)
        body = os.urandom(3 << 20)
        for step, size in enumerate((0, 10, len(body)), 2):
            assert await asyncio.to_thread(fast.try_send_now, [(result(step), body[:size])])
            assert await both.inboxes[1].next() == (result(step), bytearray(body[:size]))
        await fast.close()
        assert both.inboxes[0].messages.empty()
        assert not await asyncio.to_thread(fast.try_send_now, [(result(1), b"")])


@pytest.mark.slow
async def test_what_was_sent_before_a_direct_channel_is_closed_arrives() -> None:
    async with pair() as both:
        channel, _ = await channel_to(both, both_ways(both))
        assert is_direct(channel)
        body = os.urandom(8 << 20)
        channel.send(result(1), body)
        await channel.close()
        assert await both.inboxes[0].next() == (result(1), bytearray(body))
        assert await both.inboxes[0].end() is None


@pytest.mark.slow
async def test_libp2p_is_used_and_remembered_where_no_direct_connection_works() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        async with pair() as both:
            dead = f"/ip4/127.0.0.1/tcp/{port}/tls/p2p/{both.listener.peer_id}"
            addrs = [str(addr) for addr in both.listener.addrs]
            channel, _ = await channel_to(both, [*addrs, dead])
            assert channel.is_open and not is_direct(channel)
            await channel.close()
            channel, _ = await channel_to(both, both_ways(both))
            assert not is_direct(channel)


@pytest.mark.slow
async def test_a_peer_that_comes_back_is_reached_directly_again(tmp_path: Path) -> None:
    config = NetworkConfig(identity_path=tmp_path / "key")
    async with Peer.open(NetworkConfig(is_listening=False)) as client:
        for _ in range(2):
            async with Peer.open(config) as server:
                await server.serve(lambda channel: Inbox())
                addrs = [*map(str, server.addrs), *direct_only(server)]
                channel = await client.channel(server.peer_id, addrs)
                assert is_direct(channel)
            with pytest.raises(PeerUnreachable):
                await client.channel(server.peer_id, addrs)


@pytest.mark.slow
async def test_a_peer_told_not_to_offers_and_uses_no_direct_connection() -> None:
    plain = NetworkConfig(use_direct=False)
    async with Peer.open(plain) as one, Peer.open(NetworkConfig()) as two:
        for peer in (one, two):
            await peer.serve(lambda channel: Inbox())
        assert one.direct_addrs == ()
        assert not is_direct(await one.channel(two.peer_id, [*map(str, two.addrs), *direct_only(two)]))


@pytest.mark.slow
async def test_direct_addresses_follow_the_announced_ones() -> None:
    config = NetworkConfig(announce_maddrs=("/dns4/example.org/tcp/4000",))
    async with Peer.open(config) as peer:
        await peer.serve(lambda channel: Inbox())
        (addr,) = peer.direct_addrs
        endpoint = direct_endpoint(parse_addr(str(addr)))
        assert endpoint is not None and endpoint[0] == "example.org" and endpoint[1] != 4000


async def test_a_forwarded_direct_port_is_told_apart_from_the_daemons_addresses() -> None:
    config = NetworkConfig(announce_maddrs=("/ip4/203.0.113.7/tcp/4001/tls",))
    async with Peer.open(config) as peer:
        await peer.serve(lambda channel: Inbox())
        assert direct_only(peer) == [f"/ip4/203.0.113.7/tcp/4001/tls/p2p/{peer.peer_id}"]
        assert all(str(addr).startswith("/ip4/127.0.0.1/tcp/") and "tls" not in str(addr) for addr in peer.addrs)
    config = NetworkConfig(announce_maddrs=("/ip4/203.0.113.7/tcp/4000", "/ip4/203.0.113.7/tcp/4001/tls"))
    async with Peer.open(config) as peer:
        await peer.serve(lambda channel: Inbox())
        assert [str(addr) for addr in peer.addrs] == [f"/ip4/203.0.113.7/tcp/4000/p2p/{peer.peer_id}"]
        assert direct_only(peer) == [f"/ip4/203.0.113.7/tcp/4001/tls/p2p/{peer.peer_id}"]


async def test_a_server_with_another_key_is_refused_before_we_tell_it_who_we_are() -> None:
    timeouts, me, wanted = Timeouts(), Identity.load(None), Identity.load(None)
    door = Door(timeouts)
    endpoint = await door.open()
    with pytest.raises(PeerUnreachable, match="another peer lives there"):
        await connect(me, wanted.peer_id, [endpoint], timeouts)
    await asyncio.sleep(0.1)
    assert door.entered.empty()
    door.listener.close()


async def test_the_right_one_of_several_endpoints_is_found() -> None:
    timeouts, me = Timeouts(), Identity.load(None)
    doors = [Door(timeouts) for _ in range(3)]
    endpoints = [await door.open() for door in doors]
    stream = await connect(me, doors[1].identity.peer_id, [("127.0.0.1", 1), *endpoints], timeouts)
    assert await asyncio.wait_for(doors[1].entered.get(), 5) == me.peer_id
    assert doors[0].entered.empty() and doors[2].entered.empty()
    stream.abort()
    for door in doors:
        door.listener.close()


async def test_whoever_proves_nothing_or_something_else_does_not_get_in() -> None:
    timeouts, me = Timeouts(), Identity.load(None)
    door, other = Door(timeouts), Door(timeouts)
    endpoint = await door.open()
    # What `me` proves to another server is worth nothing here, nor is a signature by somebody else.
    proofs: list[bytes] = []

    class Tapped(Identity):
        def sign(self, payload: bytes) -> bytes:
            proofs.append(super().sign(payload))
            return proofs[-1]

    tapped = Tapped(me._key, me.path, is_temporary=False, lock=None)
    stream = await connect(tapped, other.identity.peer_id, [await other.open()], timeouts)
    assert await asyncio.wait_for(other.entered.get(), 5) == me.peer_id
    proof = proofs[0] + me.peer_id.encode()
    for sent in (proof, b"\x00" * 64 + me.peer_id.encode(), b"", b"short", b"\xff" * 120):
        await door.knock(endpoint, bytes([len(sent)]) + sent)
    await door.knock(endpoint, b"GET / HTTP/1.1\r\n\r\n" * 10)
    await door.knock(endpoint, b"\xff" * 10)
    assert door.entered.empty()
    honest = await connect(me, door.identity.peer_id, [endpoint], timeouts)
    assert await asyncio.wait_for(door.entered.get(), 5) == me.peer_id
    for one in (stream, honest):
        one.abort()
    for each in (door, other):
        each.listener.close()


async def test_plain_text_on_the_direct_port_harms_nobody() -> None:
    timeouts, me = Timeouts(), Identity.load(None)
    door = Door(timeouts)
    endpoint = await door.open()
    reader, writer = await asyncio.open_connection(*endpoint)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    with suppress(OSError):
        await asyncio.wait_for(reader.read(), 10)
    writer.close()
    (await connect(me, door.identity.peer_id, [endpoint], timeouts)).abort()
    assert await asyncio.wait_for(door.entered.get(), 5) == me.peer_id
    door.listener.close()


async def test_silent_connections_are_few_and_end_by_themselves() -> None:
    timeouts, me = Timeouts(hello=0.5), Identity.load(None)
    door = Door(timeouts)
    endpoint = await door.open()
    crowd = [await asyncio.open_connection(*endpoint) for _ in range(MAX_ENTERING + 20)]
    stream = await connect(me, door.identity.peer_id, [endpoint], timeouts)
    assert await asyncio.wait_for(door.entered.get(), 5) == me.peer_id
    assert len(door.listener._entering) <= MAX_ENTERING
    for reader, writer in crowd:
        with suppress(OSError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
    await asyncio.sleep(2 * timeouts.hello)
    assert not door.listener._entering
    stream.abort()
    door.listener.close()


async def test_a_stream_that_is_given_up_while_connecting_is_closed() -> None:
    timeouts, me = Timeouts(), Identity.load(None)
    door = Door(timeouts)
    endpoint = await door.open()
    for wait in (0.0, 0.001, 0.003, 0.006):
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                made: Stream = await connect(me, door.identity.peer_id, [endpoint], timeouts)
                made.abort()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    door.listener.close()
