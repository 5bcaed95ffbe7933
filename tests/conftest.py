"""What holds for every test: the same examples each time, and no process of ours left behind."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import settings

from swarm.demo.processes import Process
from tests.zygote import ForkedPopen

# No deadline: the cores may be busy with other work, and how long an example took is not what is tested.
settings.register_profile("house", derandomize=True, deadline=None)
settings.load_profile("house")

# The swarm that whoever runs the tests has joined is none of theirs, nor that of the processes they start.
_SETTINGS = tempfile.TemporaryDirectory(prefix="swarm-tests-")
os.environ |= {"SWARM_CONFIG": f"{_SETTINGS.name}/config", "SWARM_PEERS": f"{_SETTINGS.name}/peers"}

# A test run that is told to end unwinds, so that its fixtures stop the processes that they started.
signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave what is loaded by now out of each later collection: going through it takes a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_process_of_ours_outlives_the_tests() -> Iterator[None]:
    """Fail the run if a libp2p daemon or a command of ours is still there after the last test."""
    yield
    _, alive = psutil.wait_procs([child for child in psutil.Process().children(recursive=True) if _is_ours(child)], 5)
    assert not alive, f"still running: {alive}"


@pytest.fixture(scope="session", autouse=True)
def commands_start_soon() -> Iterator[None]:
    """Fork the commands of ours from a process that has loaded the large libraries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Process, "spawn", ForkedPopen)
        yield


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Compute on one thread: with tiny tensors two mostly wait, and spin on the cores that servers need."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


def _is_ours(child: psutil.Process) -> bool:
    try:
        words = (child.name(), *child.cmdline())
        return "p2pd" in words[0] or any(word.startswith("swarm.") for word in words)
    except psutil.Error:  # it ended while we looked
        return False
