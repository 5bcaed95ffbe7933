"""A server is up soon, and costs little more memory than its weights."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from swarm import AutoModelForCausalLM
from swarm.blocks import open_checkpoint
from swarm.blocks.formats import Quant
from swarm.demo.processes import Process, local_swarm
from tests.swarm.test_lives import LOOPBACK, running

pytestmark = pytest.mark.slow

READY_SECONDS = 10.0

STARTS = 3
"""The fastest start counts: other work on the machine makes one slower, never faster."""

EXTRA_BYTES = 200_000_000


@pytest.fixture
def commands_load_all_that_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start them as a person does: it is what is measured."""
    monkeypatch.setattr(Process, "spawn", subprocess.Popen)


BARE = """
import sys
for name in sys.argv[1:]:
    try:
        __import__(name)
    except ImportError:
        pass
print(open("/proc/self/status").read())
"""


def peak_bytes(status: str) -> int:
    """The peak resident memory that /proc/PID/status tells."""
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def imported_by_a_server() -> list[str]:
    """Names of all modules that a server process has imported once it runs."""
    listing = "import swarm.server.__main__, swarm.server.server, sys; print(*sys.modules)"
    return subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout.split()


def start_one(*flags: str, log: Path) -> tuple[float, int]:
    """Start a server; return the seconds until it was ready, and its peak memory by then."""
    started = time.monotonic()
    with running("swarm.server", *flags, *LOOPBACK, log=log) as server:
        server.wait_ready()
        return time.monotonic() - started, peak_bytes(Path(f"/proc/{server.popen.pid}/status").read_text())


@pytest.mark.parametrize(
    ("dtype", "quant"),
    [
        pytest.param("float32", "none", marks=pytest.mark.long),
        pytest.param("bfloat16", "none", marks=pytest.mark.long),
        ("bfloat16", "int4"),
    ],
)
@pytest.mark.usefixtures("commands_load_all_that_they_need")
def test_a_server_of_ten_blocks_is_ready_soon_and_needs_little_beside_its_weights(
    dtype: str, quant: Quant, tmp_path: Path
) -> None:
    weights = 10 * open_checkpoint("smollm2-135m").block_bytes(getattr(torch, dtype), quant)
    names = [name for name in imported_by_a_server() if name != "__main__"]
    command = [sys.executable, "-c", BARE, *names]
    bare = peak_bytes(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    flags = ("--blocks", "0:10", "--dtype", dtype, "--quant", quant, "--threads", "2")
    with local_swarm((), logs=tmp_path) as swarm:
        for _ in range(STARTS):
            seconds, peak = start_one(*flags, "--initial-peers", swarm.addr, log=tmp_path / "log")
            if seconds <= READY_SECONDS:
                break
    told = f"peak {peak / 1e6:.0f} MB, bare process {bare / 1e6:.0f} MB, weights {weights / 1e6:.0f} MB"
    print(f"{dtype}, {quant}: ready after {seconds:.1f} s; {told}")
    assert peak <= bare + 1.15 * weights + EXTRA_BYTES
    assert seconds <= READY_SECONDS


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_two_compute_threads_are_one_thread_more(dtype: str, tmp_path: Path) -> None:
    """With a second pool, made while loading or measuring, libgomp lets them sleep between any two operations."""

    def num_threads(threads: str) -> int:
        flags = ("--dtype", dtype, "--threads", threads)
        with local_swarm(("0:30",), server_flags=flags, logs=tmp_path) as swarm:
            model = AutoModelForCausalLM.from_pretrained(initial_peers=[swarm.addr])
            model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2)  # now the compute thread has its pool
            return len(os.listdir(f"/proc/{swarm.servers[0].popen.pid}/task"))

    assert num_threads("2") == num_threads("1") + 1
