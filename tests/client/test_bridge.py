"""The bridge: synchronous calls to the one loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from swarm.client.bridge import Bridge


@pytest.fixture
def own() -> Iterator[Bridge]:
    bridge = Bridge()
    yield bridge
    bridge.shut_down()


def test_results_and_exceptions_come_back(own: Bridge) -> None:
    async def double(value: int) -> int:
        await asyncio.sleep(0)
        return 2 * value

    async def fail() -> None:
        raise LookupError("not here")

    assert own.run(double(21)) == 42
    with pytest.raises(LookupError, match="not here"):
        own.run(fail())


def test_many_threads_may_call_at_once(own: Bridge) -> None:
    async def name() -> str:
        return threading.current_thread().name

    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.append(own.run(name()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert names == ["swarm"] * 8


async def test_it_can_be_called_from_within_another_running_loop(own: Bridge) -> None:
    async def answer() -> int:
        return 1

    assert own.run(answer()) == 1


def test_a_call_from_its_own_loop_is_refused_instead_of_waiting_for_itself(own: Bridge) -> None:
    async def inner() -> None:
        own.run(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="own loop"):
        own.run(inner())


def test_an_interrupt_cancels_the_coroutine(own: Bridge) -> None:
    code = """
import asyncio, signal, threading
from swarm.client.bridge import Bridge
bridge, ended = Bridge(), threading.Event()
async def long():
    main = threading.main_thread().ident
    threading.Timer(0.05, signal.pthread_kill, [main, signal.SIGINT]).start()
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        ended.set()
        raise
try:
    bridge.run(long())
except KeyboardInterrupt:
    print("interrupted", ended.wait(10))
"""
    assert run_python(code) == "interrupted True"


def test_a_forked_child_gets_a_bridge_of_its_own_and_ends_cleanly() -> None:
    code = """
import asyncio, os, sys, warnings
warnings.simplefilter("ignore")
from swarm.client.bridge import bridge
parent = bridge()
async def answer():
    return 7
assert parent.run(answer()) == 7
child = os.fork()
if not child:
    assert bridge() is not parent and bridge().run(answer()) == 7
    parent.post(lambda: print("never"))
    try:
        parent.run(answer())
    except RuntimeError as error:
        assert "load the model again" in str(error)
        sys.exit(3)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), parent.run(answer()))
"""
    assert run_python(code) == "3 7"


def test_what_is_registered_is_closed_at_the_end_and_calls_after_it_do_not_hang() -> None:
    bridge, closed = Bridge(), []

    async def close() -> None:
        closed.append(True)

    async def never() -> None:
        raise AssertionError

    bridge.at_exit(close)
    bridge.shut_down()
    assert closed == [True]
    with pytest.raises(RuntimeError, match="ended"):
        bridge.run(never())
    bridge.post(lambda: closed.append(False))
    bridge.shut_down()
    assert closed == [True]


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
