from __future__ import annotations

import asyncio
import struct
import time
from dataclasses import replace

import pytest

from swarm.errors import Busy, HopLost, HopTimeout, ProtocolError, VersionMismatch
from swarm.network import Channel, Timeouts, greeting
from swarm.wire import Cancel, Error, Hello, Message, Open, Ping, Result
from swarm.wire.limits import MAX_BODY_BYTES
from swarm.wire.messages import NO_SESSION
from tests.network.ends import SESSION, Inbox, pair, result

QUICK = Timeouts(heartbeat_interval=0.1, heartbeat_timeout=0.5, hello=1.0)


def pattern(size: int) -> bytes:
    return (bytes(range(256)) * (size // 256 + 1))[:size]


@pytest.mark.slow
async def test_frames_of_all_sizes_arrive_whole_in_both_directions() -> None:
    async with pair() as both:
        channel, inbox = await both.connect()
        for size in (0, 1, 2048, 16384, 65536, 65537, 1 << 20, (4 << 20) + 1, MAX_BODY_BYTES):
            body = pattern(size)
            channel.send(result(size), body)
            message, received = await both.inboxes[0].next()
            assert message == result(size) and received == body and isinstance(received, bytearray)
            both.inbound[0].send(result(size), memoryview(body))
            message, received = await inbox.next()
            assert message == result(size) and received == body


async def test_a_frame_over_the_limit_is_refused_here_and_the_channel_goes_on() -> None:
    async with pair() as both:
        channel, _ = await both.connect()
        with pytest.raises(ProtocolError, match="allowed"):
            channel.send(result(1), bytearray(MAX_BODY_BYTES + 1))
        channel.send(result(2), b"x")
        assert await both.inboxes[0].next() == (result(2), bytearray(b"x"))


async def test_a_thousand_frames_sent_at_once_arrive_in_order() -> None:
    async with pair() as both:
        channel, _ = await both.connect()
        for step in range(1000):
            channel.send(result(step), pattern(step * 20))
        for step in range(1000):
            assert await both.inboxes[0].next() == (result(step), pattern(step * 20))


@pytest.mark.slow
async def test_drain_waits_for_a_slow_reader_and_ends_with_the_channel() -> None:
    async with pair() as both:
        channel, _ = await both.connect()
        stream = both.inbound[0]._stream
        assert stream._transport is not None
        stream._transport.pause_reading()
        for step in range(3):
            channel.send(result(step), bytearray(MAX_BODY_BYTES))
        drained = asyncio.create_task(channel.drain())
        await asyncio.sleep(0.1)
        assert not drained.done()
        with pytest.raises(HopLost, match="unread"):  # noqa: PT012
            for step in range(3):
                channel.send(result(step), bytearray(MAX_BODY_BYTES))
        await asyncio.wait_for(drained, 5)
        assert not channel.is_open


async def test_callers_at_the_same_time_share_one_channel() -> None:
    async with pair() as both:
        dialled = await asyncio.gather(*(both.connect() for _ in range(20)))
        assert len({channel for channel, _ in dialled}) == 1 and len(both.inbound) == 1
        assert both.dialler.channels == (dialled[0][0],)
        assert both.inbound[0].remote == both.dialler.peer_id and not both.inbound[0].is_dialled


async def test_a_caller_that_gives_up_does_not_end_the_attempt_of_another() -> None:
    async with pair() as both:
        first, second = asyncio.create_task(both.connect()), asyncio.create_task(both.connect())
        await asyncio.sleep(0)
        first.cancel()
        channel, _ = await second
        assert channel.is_open


@pytest.mark.slow
async def test_both_sides_may_dial_and_then_there_are_two_channels() -> None:
    async with pair() as both, pair() as others:
        await others.listener.serve(others.accept)
        here, there = both.listener, others.listener
        out = await here.channel(there.peer_id, [str(addr) for addr in there.addrs])
        back = await there.channel(here.peer_id, [str(addr) for addr in here.addrs])
        assert out.is_open and back.is_open and len(here.channels) == len(there.channels) == 2


async def test_a_channel_closed_in_order_delivers_what_was_sent_and_ends_without_a_reason() -> None:
    async with pair() as both:
        channel, inbox = await both.connect()
        channel.send(result(1), pattern(3 << 20))
        await channel.close()
        await channel.close()
        assert (await both.inboxes[0].next())[1] == pattern(3 << 20)
        assert await both.inboxes[0].end() is None and await inbox.end() is None
        with pytest.raises(HopLost, match="closed"):
            channel.send(result(2))
        again, _ = await both.connect()
        assert again is not channel and again.is_open


async def test_the_round_trip_is_measured_at_once() -> None:
    async with pair() as both:
        channel, _ = await both.connect()
        async with asyncio.timeout(5):
            while channel.round_trip is None or both.inbound[0].round_trip is None:
                await asyncio.sleep(0.01)
        assert 0 < channel.round_trip < 1


@pytest.mark.slow
async def test_heartbeats_keep_an_idle_channel_alive() -> None:
    async with pair(QUICK) as both:
        channel, _ = await both.connect()
        await asyncio.sleep(4 * QUICK.heartbeat_timeout)
        assert channel.is_open and both.inbound[0].is_open


@pytest.mark.slow
async def test_a_peer_that_stays_silent_is_given_up() -> None:
    async with pair(QUICK) as both:
        channel, inbox = await both.connect()
        both.inbound[0].beat = lambda now: None  # type: ignore[method-assign]
        both.inbound[0].on_message = lambda message, body: None  # type: ignore[method-assign]
        assert isinstance(await inbox.end(3), HopTimeout)
        assert not channel.is_open


@pytest.mark.slow
async def test_our_own_standstill_is_not_blamed_on_the_peer() -> None:
    async with pair(QUICK) as both:
        channel, _ = await both.connect()
        time.sleep(3 * QUICK.heartbeat_timeout)
        await asyncio.sleep(0.3)
        assert channel.is_open and both.inbound[0].is_open


GARBAGE = {
    "noise": b"\xff" * 100,
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "an oversized header": struct.pack("<II", 65537, 0),
    "an oversized body": struct.pack("<II", 5, MAX_BODY_BYTES + 1),
    "no msgpack": struct.pack("<II", 3, 0) + b"\xc1\xc1\xc1",
    "an unknown message": struct.pack("<II", 3, 0) + b"\x92\x63\x00",
    "a body behind a ping": struct.pack("<II", 3, 1) + b"\x92\x02\x00" + b"x",
}


@pytest.mark.slow
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_closes_its_own_channel_and_nothing_else(garbage: bytes) -> None:
    async with pair() as both, pair() as others:
        addrs = [str(addr) for addr in both.listener.addrs]
        other = await others.dialler.channel(both.listener.peer_id, addrs)
        channel, inbox = await both.connect()
        assert channel._stream._transport is not None
        channel._stream._transport.write(garbage)
        await both.inboxes[1].end(5)
        assert not both.inbound[1].is_open and isinstance(both.inbound[1].reason, ProtocolError)
        await inbox.end(5)
        other.send(result(1), b"still here")
        assert (await both.inboxes[0].next())[1] == b"still here"
        again, _ = await both.connect()
        assert again.is_open


@pytest.mark.slow
async def test_a_frame_that_never_ends_is_cut_off() -> None:
    async with pair(replace(QUICK, frame=0.4)) as both:
        channel, _ = await both.connect()
        transport = channel._stream._transport
        assert transport is not None
        transport.write(struct.pack("<II", 60000, 0))
        async with asyncio.timeout(5):
            while both.inbound[0].is_open:
                transport.write(b"\xc0")  # bytes keep coming: it is no silence
                await asyncio.sleep(0.02)
        assert isinstance(both.inbound[0].reason, HopTimeout) and "for one frame" in str(both.inbound[0].reason)


async def test_a_peer_is_told_why_its_channel_was_closed() -> None:
    class Refusing(Inbox):
        def received(self, channel: Channel, message: Message, body: bytearray) -> None:
            raise Busy("full house", retry_after=3.0)

    async with pair() as both:
        both.accept = lambda channel: Refusing()  # type: ignore[method-assign, assignment]
        await both.listener.serve(both.accept)
        for _ in range(3):  # a Ping of ours that meets the end may break the pipe before the reason is read
            channel, inbox = await both.connect()
            channel.send(Cancel(SESSION, 1))
            if isinstance(reason := await inbox.end(5), Busy):
                break
        assert isinstance(reason, Busy) and reason.retry_after == 3.0 and "full house" in str(reason)


async def test_an_error_about_a_session_is_the_receivers_business() -> None:
    async with pair() as both:
        channel, inbox = await both.connect()
        told = Error(SESSION, 1, Busy.code, "later", 1.0)
        both.inbound[0].send(told)
        assert (await inbox.next())[0] == told and channel.is_open
        both.inbound[0].send(replace(told, session=NO_SESSION))
        assert isinstance(await inbox.end(5), Busy)


async def test_without_a_common_version_both_sides_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair() as both:
        monkeypatch.setattr(greeting, "our_hello", lambda: Hello(7, 9, "9.9"))
        with pytest.raises(VersionMismatch, match=r"7\.\.9"):
            await both.connect()
        assert both.inbound == []
        monkeypatch.undo()
        channel, _ = await both.connect()
        assert channel.is_open


@pytest.mark.slow
@pytest.mark.parametrize("first", [Ping(1), Open(SESSION, "m", "f", 0, 1, "float32"), Result(SESSION, 0, "float32", 0)])
async def test_whoever_does_not_say_hello_first_is_refused(monkeypatch: pytest.MonkeyPatch, first: Message) -> None:
    async with pair() as both:
        monkeypatch.setattr(greeting, "our_hello", lambda: first)
        with pytest.raises(ProtocolError, match="before Hello"):
            await both.connect()
        assert both.inbound == [] and both.listener.channels == ()
