"""Asking servers how they do, as any peer can."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import psutil
import torch

from swarm.client import SwarmForCausalLM
from swarm.demo.processes import LocalSwarm
from swarm.network import NetworkConfig, Peer, parse_addr
from swarm.network.addresses import peer_id_of
from swarm.server.handler import STATS_AGE
from swarm.types import EngineStats
from swarm.wire import Message, Stats
from swarm.wire.messages import AskStats


class _Ear:
    def __init__(self) -> None:
        self.answers: asyncio.Queue[Message] = asyncio.Queue()

    def received(self, channel: object, message: Message, body: bytearray) -> None:
        self.answers.put_nowait(message)

    def closed(self, channel: object, reason: Exception | None) -> None:
        pass


class Inspector:
    """A peer of its own that asks all servers of a swarm; use as an asynchronous context manager."""

    def __init__(self, swarm: LocalSwarm) -> None:
        self._swarm = swarm
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Inspector:
        peer = await self._stack.enter_async_context(Peer.open(NetworkConfig(is_listening=False)))
        addrs = [ready["addr"] for ready in self._swarm.ready]
        self._channels = [await peer.channel(peer_id_of(parse_addr(addr)), [addr]) for addr in addrs]
        self._ears = [_Ear() for _ in self._channels]
        for channel, ear in zip(self._channels, self._ears, strict=True):
            channel.receiver = ear
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def stats(self) -> list[EngineStats]:
        """Return what each server tells, made after this was called."""
        await asyncio.sleep(1.5 * STATS_AGE)
        found = []
        for channel, ear in zip(self._channels, self._ears, strict=True):
            channel.send(AskStats())
            answer = await asyncio.wait_for(ear.answers.get(), 10)
            assert isinstance(answer, Stats)
            found.append(EngineStats.of(answer.values))
        return found

    async def wait_empty(self, timeout: float) -> float:
        """Wait until no server holds a sequence or a session; return the seconds it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(timeout):
            while any(stats.sequences or stats.sessions for stats in await self.stats()):
                pass
        return loop.time() - began

    def resident(self) -> list[int]:
        """Return each server's resident bytes, without its daemon."""
        return [psutil.Process(server.popen.pid).memory_info().rss for server in self._swarm.servers]


def free_pages(model: SwarmForCausalLM) -> dict[str, int]:
    """What each server says when a session is opened."""
    cache = model.new_cache()
    model(torch.tensor([[1]]), past_key_values=cache)
    assert cache.session is not None
    told = dict(cache.session.free_pages)
    cache.reset()
    return {str(peer): pages for peer, pages in told.items()}
