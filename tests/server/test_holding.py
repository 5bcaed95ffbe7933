"""What a server holds comes and goes as one: blocks, compute thread, sessions, memory."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from swarm.blocks import open_checkpoint
from swarm.errors import Busy, CheckpointCorrupt, NotEnoughMemory, SessionLost
from swarm.network import Channel
from swarm.server import ServerConfig, loading
from swarm.server.choice import Choice, fit
from swarm.server.holding import Holding
from swarm.server.links import Links
from swarm.server.reception import Reception
from swarm.types import Span
from swarm.wire import AskStats, Close, Error, Message, Open, Opened, Ping, Row, Stats, Step
from tests.builders import make_llama

CONFIG = ServerConfig(blocks=2, dtype="float32", threads=1, throughput="100", memory=1 << 30)
ID = b"s" * 16


class Wire:
    """A client's channel that keeps what it was sent."""

    remote = "client"

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message, body: Any = b"") -> None:
        self.sent.append(message)


@pytest.fixture
def choice(tmp_path: Path) -> Choice:
    make_llama(tmp_path / "tiny", num_blocks=4)
    return fit(CONFIG, open_checkpoint(tmp_path / "tiny"))


async def open_holding(choice: Choice) -> Holding:
    links = cast(Links, SimpleNamespace(warm=lambda *words: None))
    return await Holding.open(choice, CONFIG, links, is_draining=lambda: False)


def compute_threads() -> int:
    return sum(thread.name == "compute" for thread in threading.enumerate())


def session_of(choice: Choice) -> Open:
    return Open(ID, choice.checkpoint.name, choice.checkpoint.fingerprint, 0, 2, "float32")


async def test_what_is_closed_is_gone_its_memory_too_and_its_clients_know(choice: Choice) -> None:
    before = compute_threads()
    holding = await open_holding(choice)
    assert compute_threads() == before + 1
    assert holding.digests == tuple(choice.checkpoint.block_digest(block) for block in (0, 1))
    wire = Wire()
    reception = Reception()
    reception.handler = holding.handler
    reception.received(cast(Channel, wire), session_of(choice), bytearray())
    assert isinstance(wire.sent.pop(), Opened)
    stack = weakref.ref(holding.engine._stack)
    await holding.close()
    (told,) = wire.sent
    assert isinstance(told, Error) and told.session == ID and told.code == SessionLost.code
    reception.handler = None
    del holding
    assert compute_threads() == before
    # The thread that closed the engine wakes us before it lets go of what it was given.
    for _ in range(100):
        gc.collect()
        if stack() is None:
            break
        await asyncio.sleep(0.05)
    assert stack() is None, "two spans at once may be more than the machine has memory for"


@pytest.mark.parametrize("turns", range(12))
async def test_who_stops_waiting_for_a_span_leaves_no_thread_behind(choice: Choice, turns: int) -> None:
    before = compute_threads()
    opening = asyncio.create_task(open_holding(choice))
    for _ in range(turns):
        await asyncio.sleep(0.002)
    opening.cancel()
    (result,) = await asyncio.gather(opening, return_exceptions=True)
    if isinstance(result, Holding):
        await result.close()
    assert compute_threads() == before


async def test_a_load_that_nobody_waits_for_ends_after_a_block(choice: Choice, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []
    cancelled, ended = threading.Event(), threading.Event()

    def load(*words: Any, progress: Callable[[int, int], None], **options: Any) -> None:
        try:
            for block in range(4):
                loaded.append(block)
                asyncio_loop.call_soon_threadsafe(task.cancel)
                cancelled.wait(5.0)
                progress(block + 1, 4)
        finally:
            ended.set()

    monkeypatch.setattr(loading.BlockStack, "load", load)
    asyncio_loop = asyncio.get_running_loop()
    task = asyncio.create_task(loading.load(choice))
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    cancelled.set()
    await asyncio.to_thread(ended.wait, 5.0)
    assert loaded == [0]


FAULTS = [
    (OSError("no such file"), CheckpointCorrupt, "blocks 0:2 of tiny cannot be read: no such file"),
    (MemoryError(), NotEnoughMemory, "no memory left for blocks 0:2 of tiny: lower --memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), NotEnoughMemory, "no memory left"),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), NotEnoughMemory, "no memory left"),
    (RuntimeError("a fault of ours"), RuntimeError, "a fault of ours"),
]


@pytest.mark.parametrize(("fault", "error", "text"), FAULTS)
async def test_what_goes_wrong_is_told_as_an_error_of_ours(
    choice: Choice, monkeypatch: pytest.MonkeyPatch, fault: Exception, error: type[Exception], text: str
) -> None:
    def load(*words: Any, **options: Any) -> None:
        raise fault

    monkeypatch.setattr(loading.BlockStack, "load", load)
    with pytest.raises(error, match=text):
        await open_holding(choice)


async def test_while_nothing_is_served_messages_are_answered_and_channels_live(choice: Choice) -> None:
    reception, wire = Reception(), Wire()
    step = Step(ID, 7, 0, "float32", (Row(0, 0, 0, 1, 1),))
    for message in (session_of(choice), step, AskStats(), Close(ID)):
        reception.received(cast(Channel, wire), message, bytearray())
    refused, lost, stats = wire.sent
    assert isinstance(refused, Error) and (refused.session, refused.code) == (ID, Busy.code)
    assert isinstance(lost, Error) and (lost.session, lost.step, lost.code) == (ID, 7, SessionLost.code)
    assert isinstance(stats, Stats)
    with pytest.raises(Exception, match="Ping is not for a server"):
        reception.received(cast(Channel, wire), Ping(1), bytearray())


def test_a_span_of_the_flag_is_what_is_chosen(tmp_path: Path) -> None:
    make_llama(tmp_path / "tiny", num_blocks=4)
    chosen = fit(ServerConfig(blocks=Span(1, 3), memory=1 << 30), open_checkpoint(tmp_path / "tiny"))
    assert chosen.span == Span(1, 3)
