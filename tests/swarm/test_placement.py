"""Servers with `--blocks auto`: real processes that share the blocks, and move when some of them leave."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from swarm import AutoModelForCausalLM
from swarm.blocks import open_checkpoint
from swarm.blocks.paged.kv_cache import slot_bytes
from swarm.client import SwarmForCausalLM, Timeouts
from swarm.client.bridge import bridge
from swarm.demo.fleet import Fleet, fleet
from swarm.server.capacity import Need
from swarm.types import ServerRecord, ServerState, Span
from tests.builders import some_ids

pytestmark = pytest.mark.slow

TEN_OF_SMOLLM = "220MB"
"""In 4 bits: ten blocks of the bundled model fit."""

COVERED_AGAIN = 30.0
"""Seconds from a server's end until another one is in its place."""

CONVERGED = 60.0
"""Seconds from the start of all until each serves and none wants to move."""

QUIET_SECONDS = 300.0
"""For so long nobody is to move without cause."""

TTL = 6.0
"""Of the servers' records: who is killed is noticed after that."""


class Watcher:
    """Looks at the directory all the while, through a client's eyes.

    Attributes:
        history: When each server announced which state and span, by its name.
    """

    def __init__(self, running: Fleet, model: SwarmForCausalLM) -> None:
        self.model = model
        self.history: list[tuple[float, str, ServerState, Span]] = []
        self._fleet = running
        self._num_blocks = model.config.num_hidden_layers
        self._latest: dict[str, tuple[ServerState, Span]] = {}

    def look(self) -> tuple[ServerRecord, ...]:
        """Return the records of now, and note what is new."""
        directory = self.model._connection._directory
        assert directory is not None
        records = bridge().run(directory.view(self.model._model.name)).records
        for record in records:
            seen = (record.state, record.span)
            if self._latest.get(record.peer) != seen:
                self._latest[record.peer] = seen
                self.history.append((time.monotonic(), record.peer, *seen))
        return records

    def holders(self) -> Counter[int]:
        """How many servers serve each block now."""
        online = [record.span for record in self.look() if record.state is ServerState.ONLINE]
        return Counter(block for span in online for block in range(span.start, span.end))

    def is_covered(self) -> bool:
        return len(self.holders()) == self._num_blocks

    def wait(self, what: Callable[[], bool], timeout: float) -> float:
        """Wait for something; return the seconds it took."""
        began = time.monotonic()
        while not what():
            assert time.monotonic() - began < timeout, f"not within {timeout:.0f} s: {self.story()}"
            time.sleep(0.2)
        return time.monotonic() - began

    def are_settled(self, number: int) -> bool:
        """Whether so many servers are there, and all of them serve, and want nothing else."""
        records = self.look()
        return len(records) == number and all(
            record.state is ServerState.ONLINE and record.next_span is None for record in records
        )

    def spans(self) -> dict[str, Span]:
        """Return what each serves, by the names of the fleet."""
        return {self._fleet.name(record.peer): record.span for record in self.look()}

    def lone(self) -> str:
        """Return a server whose blocks nobody else holds; empty if there is none."""
        spans = self.spans()
        counts = Counter(spans.values())
        return next((name for name, span in spans.items() if counts[span] == 1), "")

    def story(self) -> str:
        first = self.history[0][0] if self.history else 0.0
        return "; ".join(f"{at - first:.1f} {peer[-4:]} {state.value} {span}" for at, peer, state, span in self.history)


class Text(threading.Thread):
    """A text that is being streamed, over and over again, until it is enough."""

    def __init__(self, model: SwarmForCausalLM, prompt: list[int], new_tokens: int) -> None:
        super().__init__(daemon=True)
        self._model, self._prompt, self._new_tokens = model, prompt, new_tokens
        self._is_enough = False
        self.texts: list[list[int]] = []
        self.fault: BaseException | None = None
        self.pause = 0.0

    def run(self) -> None:
        try:
            while not self._is_enough:
                self.texts.append(asyncio.run(self.once()))
        except BaseException as fault:
            self.fault = fault

    async def once(self) -> list[int]:
        """Return the text, streamed."""
        options: dict[str, Any] = {"max_new_tokens": self._new_tokens, "min_new_tokens": self._new_tokens}
        tokens, last = list[int](), time.monotonic()
        async for token in self._model.stream(self._prompt, do_sample=False, **options):
            tokens.append(token)
            self.pause, last = max(self.pause, time.monotonic() - last), time.monotonic()
        return tokens

    def stop(self, timeout: float) -> list[list[int]]:
        """Let the current text end; return all of them."""
        self._is_enough = True
        self.join(timeout)
        assert not self.is_alive(), "the text does not end"
        if self.fault is not None:
            raise self.fault
        return self.texts


def memory_for(folder: Path, blocks: int) -> str:
    """Return what `--memory` has to say for so many blocks of a model to fit, as float32 runs it."""
    checkpoint = open_checkpoint(folder)
    need = Need(
        block_bytes=checkpoint.block_bytes(torch.float32, "none"),
        slot_bytes=slot_bytes(checkpoint.config, torch.float32),
        context_length=checkpoint.config.context_length,
    )
    return str(need.bytes_for(blocks))


def resident_bytes(running: Fleet, name: str) -> int:
    """Return the bytes that a server has in memory now."""
    return int(psutil.Process(running.servers[name].popen.pid).memory_info().rss)


def client_of(running: Fleet, *model: str | Path) -> SwarmForCausalLM:
    """Return a client that waits for blocks which nobody serves, and whose texts are exact."""
    return AutoModelForCausalLM.from_pretrained(
        *model, initial_peers=[running.addr], codec="float32", timeouts=Timeouts(coverage=90.0)
    )


def leave(running: Fleet, watcher: Watcher, text: Text, name: str, number: signal.Signals, left: int) -> None:
    """End the only holder of some blocks; wait until somebody came for it and all are at rest."""
    began, before, text.pause = time.monotonic(), watcher.spans(), 0.0
    running.signal(name, number)
    watcher.wait(lambda: not watcher.is_covered(), 2 * TTL)
    watcher.wait(watcher.is_covered, began + COVERED_AGAIN - time.monotonic())
    seconds = time.monotonic() - began
    watcher.wait(lambda: watcher.are_settled(left), COVERED_AGAIN)
    after = watcher.spans()
    moved = {other: f"{before[other]} to {after[other]}" for other in after if before[other] != after[other]}
    print(f"{number.name} to {name} of {before[name]}: covered again after {seconds:.1f} s by {moved}")
    print(f"longest pause of the text {text.pause:.1f} s")
    assert len(moved) == 1


def test_servers_share_the_blocks_and_one_moves_when_another_leaves(tiny_folder: Path) -> None:
    flags = ("--dtype", "float32", "--threads", "1", "--ttl", f"{TTL:.0f}", "--memory", memory_for(tiny_folder, 2))
    names = [f"server{index}" for index in range(4)]
    with fleet(*flags) as running:
        began = time.monotonic()
        running.launch(dict.fromkeys(names, "auto"), model=str(tiny_folder))
        watcher = Watcher(running, client_of(running, tiny_folder))
        watcher.wait(watcher.is_covered, CONVERGED)
        covered = time.monotonic() - began
        running.wait_ready(*names)
        watcher.wait(lambda: watcher.are_settled(4), CONVERGED)
        print(f"4 servers: covered after {covered:.1f} s, at rest after {time.monotonic() - began:.1f} s")
        assert {len(span) for span in watcher.spans().values()} == {2}
        text = Text(watcher.model, some_ids(24).tolist(), 150)
        expected = asyncio.run(text.once())
        text.start()
        leave(running, watcher, text, watcher.lone(), signal.SIGKILL, 3)
        texts = text.stop(60.0)
        print(f"{len(texts)} texts meanwhile")
        assert all(each == expected for each in texts)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_six_servers_share_the_blocks_stay_and_move_when_others_leave() -> None:
    flags = ("--quant", "int4", "--threads", "1", "--ttl", f"{TTL:.0f}", "--memory", TEN_OF_SMOLLM)
    names = [f"server{index}" for index in range(6)]
    with fleet(*flags) as running:
        began = time.monotonic()
        running.launch(dict.fromkeys(names, "auto"))
        watcher = Watcher(running, client_of(running))
        watcher.wait(watcher.is_covered, CONVERGED)
        covered = time.monotonic() - began
        running.wait_ready(*names)
        watcher.wait(lambda: watcher.are_settled(6), CONVERGED)
        settled = time.monotonic() - began
        print(f"6 servers: covered after {covered:.1f} s, at rest after {settled:.1f} s: {watcher.spans()}")
        assert settled <= CONVERGED and {len(span) for span in watcher.spans().values()} == {10}

        text = Text(watcher.model, some_ids(100).tolist(), 200)
        expected = asyncio.run(text.once())
        text.start()
        before = len(watcher.history)
        while time.monotonic() - began < settled + QUIET_SECONDS:
            assert watcher.is_covered() and len(watcher.history) == before, watcher.story()
            time.sleep(0.5)
        print(f"no move in {QUIET_SECONDS:.0f} s")

        while not (lone := watcher.lone()):  # until then nobody needs to move
            counts = Counter(watcher.spans().values())
            name = next(name for name, span in watcher.spans().items() if counts[span] == 2)
            running.signal(name, signal.SIGKILL)
            watcher.wait(lambda: watcher.are_settled(len(running.servers)), COVERED_AGAIN)
        for number in (signal.SIGTERM, signal.SIGKILL):
            resident = {name: resident_bytes(running, name) for name in running.servers}
            leave(running, watcher, text, lone, number, len(running.servers) - 1)
            running.servers.pop(lone, None)
            told = {
                name: f"{(resident_bytes(running, name) - resident[name]) / 1e6:+.0f} MB" for name in running.servers
            }
            print(f"resident memory since: {told}")
            lone = watcher.lone()
        texts = text.stop(120.0)
        print(f"{len(texts)} texts meanwhile")
        assert all(each == expected for each in texts)
