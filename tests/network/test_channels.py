"""A peer's channels: what went over them is counted by carrier, and the ended ones are forgotten."""

from __future__ import annotations

import asyncio

import pytest

from swarm.network import Channel, NetworkConfig, Peer
from swarm.wire import Result
from tests.network.ends import Inbox, pair, result


@pytest.mark.slow
async def test_bytes_are_counted_by_carrier_and_outlive_their_channels() -> None:
    async with pair() as both, Peer.open(NetworkConfig(is_listening=False)) as other:
        channel, _ = await both.connect()
        await _say(channel, both.inboxes[0], size=100_000)
        assert both.dialler.traffic["libp2p"].channels == 1 == both.listener.traffic["libp2p"].channels
        addrs = [str(addr) for addr in both.listener.direct_addrs]
        direct = await other.channel(both.listener.peer_id, addrs)
        await _say(direct, both.inboxes[1], size=300_000)
        before = both.listener.traffic
        assert 100_000 < before["libp2p"].bytes_in < 110_000 and 300_000 < before["direct"].bytes_in < 310_000
        assert 300_000 < other.traffic["direct"].bytes_out < 310_000 and other.traffic["libp2p"].bytes_out == 0
        for peer, each in ((both.dialler, channel), (other, direct)):
            await each.close()
            assert not tuple(peer._channels)
        async with asyncio.timeout(10):
            while tuple(both.listener._channels):
                await asyncio.sleep(0.01)
        after = both.listener.traffic
        assert after["libp2p"].channels == after["direct"].channels == 0
        assert after["libp2p"].bytes_in >= before["libp2p"].bytes_in
        assert after["direct"].bytes_in >= before["direct"].bytes_in


async def _say(channel: Channel, inbox: Inbox, *, size: int) -> None:
    channel.send(result(1), bytes(size))
    message, body = await inbox.next()
    assert isinstance(message, Result) and len(body) == size
