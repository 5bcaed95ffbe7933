"""Links: what is pushed waits for the dial, in order, and failures are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from swarm.errors import Busy, HopLost, SwarmError
from swarm.server.links import MAX_PENDING, Links
from swarm.types import PeerId
from swarm.wire import Close, Error
from tests.fake_wire import End, Net, settle

NEXT = PeerId("next")


class Heard:
    """What a far end received, and what the links reported."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.errors: list[Error] = []
        self.lost: list[PeerId] = []
        self.failures: list[SwarmError] = []

    def received(self, channel: End, message: Close, body: bytearray) -> None:
        self.messages.append(message.session[:1])

    def closed(self, channel: End, reason: Exception | None) -> None:
        pass


@asynccontextmanager
async def open_links(net: Net) -> AsyncIterator[tuple[Links, Heard]]:
    heard = Heard()
    net.accepting["next"] = lambda end: heard
    async with asyncio.TaskGroup() as tasks:
        yield Links(net.peer("here"), tasks, on_error=heard.errors.append, on_lost=heard.lost.append), heard


def send(links: Links, heard: Heard, letter: bytes, peer: PeerId = NEXT) -> None:
    links.send(peer, (), Close(letter * 16), memoryview(b""), heard.failures.append)


async def test_messages_wait_for_the_dial_and_go_out_in_order() -> None:
    net = Net()
    net.gate = asyncio.Event()
    async with open_links(net) as (links, heard):
        for letter in (b"a", b"b", b"c"):
            send(links, heard, letter)
        await settle()
        assert heard.messages == []
        net.gate.set()
        await settle()
        send(links, heard, b"d")
        await settle()
    assert heard.messages == [b"a", b"b", b"c", b"d"]
    assert net.dialled == [("here", "next")]
    assert heard.failures == []


@pytest.mark.parametrize("peer", ["nobody", "no peer id"])
async def test_a_dial_that_fails_is_told_once_for_each_message_and_may_be_tried_again(peer: str) -> None:
    net = Net()
    async with open_links(net) as (links, heard):
        send(links, heard, b"a", PeerId(peer))
        send(links, heard, b"b", PeerId(peer))
        await settle()
        assert [peer in str(error) for error in heard.failures] == [True, True]
        net.accepting["nobody"] = lambda end: heard
        send(links, heard, b"c", PeerId("nobody"))
        await settle()
    assert heard.messages == [b"c"]
    assert len(heard.failures) == 2


async def test_a_warmed_link_is_dialled_once_and_dialled_again_after_it_was_lost() -> None:
    net = Net()
    async with open_links(net) as (links, heard):
        links.warm(NEXT, ())
        links.warm(NEXT, ())
        await settle()
        links.warm(NEXT, ())
        await settle()
        assert len(net.dialled) == 1
        net.ends["here", "next"].close(HopLost("gone"))
        assert heard.lost == [NEXT]
        send(links, heard, b"a")
        await settle()
    assert len(net.dialled) == 2 and heard.messages == [b"a"]


async def test_errors_that_come_back_are_passed_on() -> None:
    net = Net()
    async with open_links(net) as (links, heard):
        links.warm(NEXT, ())
        await settle()
        error = Error(b"s" * 16, 3, 55, "not open here")
        near = net.ends["here", "next"]
        assert near.other is not None
        near.other.send(error)
        await settle()
    assert heard.errors == [error]


async def test_a_link_that_does_not_take_a_message_says_so_to_the_sender() -> None:
    net = Net()
    async with open_links(net) as (links, heard):
        links.warm(NEXT, ())
        await settle()
        net.ends["here", "next"].refuses = HopLost("too much is unsent")
        with pytest.raises(HopLost, match="too much is unsent"):
            send(links, heard, b"a")


async def test_no_more_messages_than_allowed_wait_for_one_dial() -> None:
    net = Net()
    net.gate = asyncio.Event()
    async with open_links(net) as (links, heard):
        for _ in range(MAX_PENDING):
            send(links, heard, b"a")
        with pytest.raises(Busy, match="next"):
            send(links, heard, b"b")
        net.gate.set()
        await settle()
    assert len(heard.messages) == MAX_PENDING


async def test_a_link_takes_messages_from_any_thread_once_it_is_up_and_nothing_waits() -> None:
    net = Net()
    net.gate = asyncio.Event()

    def send_now(links: Links, letter: bytes) -> bool:
        return links.try_send_now(NEXT, [(Close(letter * 16), memoryview(b""))])

    async with open_links(net) as (links, heard):
        assert not send_now(links, b"x")
        send(links, heard, b"a")
        assert not send_now(links, b"x")
        net.gate.set()
        await settle()
        end = net.ends["here", "next"]
        assert not send_now(links, b"x")
        end.loop = asyncio.get_running_loop()
        assert await asyncio.to_thread(send_now, links, b"b")
        await settle()
        end.close()
        assert not send_now(links, b"x")
    assert heard.messages == [b"a", b"b"] and heard.failures == []
