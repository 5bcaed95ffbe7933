"""Builders for tests: a receiver that keeps what it gets, a pair of peers, a process beside."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import psutil

from swarm.network import Channel, NetworkConfig, Peer, Timeouts, parse_addr
from swarm.network.addresses import peer_id_of
from swarm.swarm_key import SwarmKey
from swarm.wire import Message, Result

SESSION = b"s" * 16


def result(step: int) -> Result:
    return Result(SESSION, step, "float32", 1)


class Inbox:
    """A receiver that keeps all messages, and why the channel ended."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[Message, bytearray]] = asyncio.Queue()
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        self.messages.put_nowait((message, body))

    def closed(self, channel: Channel, reason: Exception | None) -> None:
        self.ended.set_result(reason)

    async def next(self, timeout: float = 20.0) -> tuple[Message, bytearray]:
        return await asyncio.wait_for(self.messages.get(), timeout)

    async def end(self, timeout: float = 20.0) -> Exception | None:
        return await asyncio.wait_for(asyncio.shield(self.ended), timeout)


class Pair:
    """A dialling peer, a dialled peer, and the inboxes of both ends of their first channel."""

    def __init__(self, dialler: Peer, listener: Peer) -> None:
        self.dialler, self.listener = dialler, listener
        self.inboxes: list[Inbox] = []
        self.inbound: list[Channel] = []

    def accept(self, channel: Channel) -> Inbox:
        self.inbound.append(channel)
        self.inboxes.append(Inbox())
        return self.inboxes[-1]

    async def connect(self, carrier: str = "libp2p") -> tuple[Channel, Inbox]:
        addrs = self.listener.direct_addrs if carrier == "direct" else self.listener.addrs
        channel = await self.dialler.channel(self.listener.peer_id, [str(addr) for addr in addrs])
        inbox = Inbox()
        channel.receiver = inbox
        return channel, inbox


@asynccontextmanager
async def pair(
    timeouts: Timeouts | None = None, *, dialler_key: SwarmKey | None = None, listener_key: SwarmKey | None = None
) -> AsyncIterator[Pair]:
    config = NetworkConfig(timeouts=timeouts or Timeouts(), swarm_key=listener_key)
    client = NetworkConfig(is_listening=False, timeouts=config.timeouts, swarm_key=dialler_key)
    async with AsyncExitStack() as stack:
        both = Pair(
            await stack.enter_async_context(Peer.open(client)), await stack.enter_async_context(Peer.open(config))
        )
        await both.listener.serve(both.accept)
        yield both


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run `python -m ...` until the block ends; gives the process and its first line."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, stdout=PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    family = [psutil.Process(child.pid)]
    try:
        assert child.stdout is not None
        line = await asyncio.wait_for(child.stdout.readline(), 60)
        family += family[0].children(recursive=True)
        yield child, line.decode().strip()
    finally:
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        await child.wait()


@asynccontextmanager
async def echo_process(
    dialler: Peer, carrier: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, Channel, Inbox]]:
    """Run an echo peer; gives the process, its address, and a channel over `carrier`, "libp2p" or "direct"."""
    async with process("tests.network.echo_peer", carrier) as (child, line):
        channel = await dialler.channel(peer_id_of(parse_addr(line)), [line])
        inbox = Inbox()
        channel.receiver = inbox
        yield child, line, channel, inbox
