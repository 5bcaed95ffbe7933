"""Real servers and clients on a virtual net, and a directory that everybody sees at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from swarm.blocks import BlockStack, Checkpoint, KVCache, ModelEnds
from swarm.client import ClientConfig
from swarm.client.connection import Connection
from swarm.client.opening import Model
from swarm.client.session import Session
from swarm.network import Timeouts
from swarm.server.engine import Engine
from swarm.server.handler import Handler, Served
from swarm.server.links import Links
from swarm.server.page_queue import PATIENCE
from swarm.server.sessions import SessionTable
from swarm.types import ModelEntry, Reach, ServerRecord, ServerState, Span, View
from swarm.wire import Row
from tests.virtual.loop import run
from tests.virtual.net import VirtualNet

T = TypeVar("T")

HIDDEN_SIZE = 64
"""Of `tests.builders.make_llama`."""


class TurnsOnLoop(Engine):
    """An engine without a thread: each turn is a callback that comes `seconds` after there is something to do."""

    def __init__(self, stack: BlockStack, cache: KVCache, *, seconds: float) -> None:
        super().__init__(stack, cache, threads=1)
        self.seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> TurnsOnLoop:
        self._loop = asyncio.get_running_loop()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_leaving = True
        if self._timer is not None:
            self._timer.cancel()

    def submit(self, work: Any) -> None:
        super().submit(work)
        self._wake(self.seconds)

    def find(self, *words: Any) -> None:
        super().find(*words)
        self._wake(self.seconds)

    def replay(self, *words: Any) -> None:
        super().replay(*words)
        self._wake(0.0)

    def release(self, session: Any) -> None:
        super().release(session)
        self._wake(0.0)

    async def call(self, function: Callable[[], T]) -> T:
        self._loop.call_soon(self._wake, 0.0)
        return await super().call(function)

    def _wake(self, seconds: float) -> None:
        if self._timer is None and not self._is_leaving:
            self._timer = self._loop.call_later(seconds, self._work)

    def _work(self) -> None:
        self._timer = None
        inbox, turns = self._inbox, self._turns
        with torch.inference_mode():
            while not inbox.empty():
                self._take(inbox.get_nowait())
            if turns.has_work or turns.wants_pages:
                turns.turn()
        if turns.has_work or not inbox.empty():
            self._wake(self.seconds)
        elif turns.wants_pages:
            self._wake(PATIENCE)


class VirtualServer:
    """A server of some blocks, on a host of its own.

    Attributes:
        peer: In the net.
        engine: Its turns.
        cache: Its KV pages.
        handler: What receives its messages.
        state: As announced.
    """

    def __init__(self, swarm: VirtualSwarm, name: str, span: Span, *, seconds: float, pages: int) -> None:
        checkpoint = swarm.checkpoint
        self.name = name
        self.span = span
        self.peer = swarm.net.peer(name, timeouts=swarm.timeouts)
        stack = BlockStack.load(checkpoint, span, dtype=torch.float32)
        self.cache = stack.new_cache(pages)
        self.engine = TurnsOnLoop(stack, self.cache, seconds=seconds)
        self.state = ServerState.ONLINE
        served = Served(
            model=checkpoint.name,
            fingerprint=checkpoint.fingerprint,
            span=span,
            hidden_size=HIDDEN_SIZE,
            context_length=256,
        )
        is_draining = lambda: self.state is not ServerState.ONLINE  # noqa: E731
        self.sessions = SessionTable(16)
        self.handler = Handler(served, self.engine, self.sessions, is_draining=is_draining, session_timeout=600.0)
        self.record = swarm.record(self)
        self.task = asyncio.create_task(self._live())

    async def _live(self) -> None:
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            stack.enter_context(self.engine)
            links = Links(self.peer, tasks, on_error=self.handler.tell_client, on_lost=self.handler.lost_link)
            self.handler.attach(links)
            self.peer._handler = lambda channel: self.handler
            await asyncio.get_running_loop().create_future()


class VirtualDirectory:
    """What the directory would answer: the records of all servers, of dead ones too until they expire."""

    def __init__(self, swarm: VirtualSwarm) -> None:
        self._swarm = swarm
        self.num_views = 0

    async def wait_connected(self, timeout: float) -> None:
        """We always are."""

    async def models(self) -> tuple[ModelEntry, ...]:
        records = self._swarm.records()
        first = records[0] if records else None
        return (
            ()
            if first is None
            else (
                ModelEntry(
                    name=first.model,
                    fingerprint=first.fingerprint,
                    num_blocks=first.num_blocks,
                    num_servers=len(records),
                ),
            )
        )

    async def view(self, model: str) -> View:
        self.num_views += 1
        await asyncio.sleep(self._swarm.look_up)
        return View(model=model, records=self._swarm.records(), taken_at=self._swarm.net.now)


class VirtualSwarm:
    """Servers, clients and what they know of each other; made by `run_swarm`.

    Attributes:
        net: Where faults are made.
        model: What `Connection.open_session` wants to know.
        checkpoint: Of the model.
        ends: Its embeddings and head, for tests that decode.
        servers: Those alive, by name.
        timeouts: Of all peers' channels.
        ttl: Seconds for which a dead server's record is still seen.
        look_up: Seconds that a look into the directory takes.
    """

    def __init__(self, net: VirtualNet, checkpoint: Checkpoint, *, timeouts: Timeouts | None = None) -> None:
        self.net = net
        self.checkpoint = checkpoint
        self.model = Model(name=checkpoint.name, fingerprint=checkpoint.fingerprint, hidden_size=HIDDEN_SIZE)
        self.ends = ModelEnds.load(checkpoint, dtype=torch.float32)
        self.servers: dict[str, VirtualServer] = {}
        self.timeouts = timeouts
        self.ttl = 60.0
        self.look_up = 0.0
        self._gone: list[tuple[float, ServerRecord]] = []
        self._clients: list[asyncio.Task[None]] = []

    def serve(
        self, name: str, start: int, end: int, *, seconds: float = 0.001, pages: int = 64, **record: Any
    ) -> VirtualServer:
        """Start a server of blocks [start, end), whose turns take so long; `record` changes what it announces."""
        server = VirtualServer(self, name, Span(start, end), seconds=seconds, pages=pages)
        server.record = replace(server.record, **record)
        self._gone = [(until, old) for until, old in self._gone if old.peer != server.record.peer]
        self.servers[name] = server
        return server

    def client(self, name: str = "client", **config: Any) -> Connection:
        """Return a client's connection, which is in the swarm already; `config` is a `ClientConfig`'s."""
        fields: dict[str, Any] = {"initial_peers": (), "chunk_tokens": 8, "view_age": 0.0, **config}
        connection = Connection(ClientConfig(**fields))
        connection._join(self.net.peer(name, timeouts=self.timeouts), cast(Any, VirtualDirectory(self)))
        connection._task = asyncio.create_task(connection.upkeep.run())
        self._clients.append(connection._task)
        return connection

    async def kill(self, name: str) -> None:
        """SIGKILL: a server's connections break, its record stays for `ttl` seconds."""
        server = self.servers.pop(name)
        self.net.kill(name)
        self._gone.append((self.net.now + self.ttl, server.record))
        await _end(server.task)

    def records(self) -> tuple[ServerRecord, ...]:
        """Return what the directory holds now."""
        living = [replace(server.record, state=server.state) for server in self.servers.values()]
        return (*living, *(record for until, record in self._gone if until > self.net.now))

    def record(self, server: VirtualServer) -> ServerRecord:
        """Return what a server announces."""
        checkpoint, span = self.checkpoint, server.span
        return ServerRecord(
            peer=server.peer.peer_id,
            model=checkpoint.name,
            fingerprint=checkpoint.fingerprint,
            num_blocks=checkpoint.config.num_blocks,
            span=span,
            digests=tuple(checkpoint.block_digest(block) for block in range(span.start, span.end)),
            state=ServerState.ONLINE,
            decode_per_s=1000.0,
            prefill_per_s=5000.0,
            free_pages=server.cache.free_pages,
            load=0,
            dtype="float32",
            quant="none",
            addrs=self.net.addrs(server.name),
            public_name=server.name,
            version="0",
            expires_at=1e12,
            reach=Reach.DIRECT,
        )

    async def step(self, client: Connection, session: Session, ids: Sequence[int], *, position: int) -> Tensor:
        """Run tokens at `position` of sequence 0 through a client's session; returns the last one's logits (V,)."""
        places = torch.arange(position, position + len(ids))
        hidden = self.ends.place(self.ends.embed(torch.tensor(list(ids))), places)
        kept = await client.step(session, [Row(0, 0, position, len(ids), 1)], hidden)
        return self.ends.logits(kept)[-1]

    async def generate(self, client: Connection, session: Session, prompt: Sequence[int], new_tokens: int) -> list[int]:
        """Return the greedy continuation of a prompt."""
        found: list[int] = []
        feed, position = list(prompt), 0
        for _ in range(new_tokens):
            logits = await self.step(client, session, feed, position=position)
            position += len(feed)
            feed = [int(logits.argmax())]
            found += feed
        return found

    async def close(self) -> None:
        """End all servers and clients."""
        for task in [*(server.task for server in self.servers.values()), *self._clients]:
            await _end(task)


def run_swarm(
    story: Callable[[VirtualSwarm], Awaitable[T]],
    checkpoint: Checkpoint,
    *,
    delay: float = 0.001,
    jitter: float = 0.0,
    seed: int = 0,
    timeouts: Timeouts | None = None,
) -> T:
    """Run `story` with an empty swarm on a net of its own, under a virtual clock."""

    async def tell() -> T:
        torch.manual_seed(seed)
        random.seed(seed)
        async with VirtualNet(delay=delay, jitter=jitter, seed=seed).open() as net:
            swarm = VirtualSwarm(net, checkpoint, timeouts=timeouts)
            try:
                return await story(swarm)
            finally:
                await swarm.close()

    return run(tell())


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
