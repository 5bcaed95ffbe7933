"""A server is up soon, and costs little more memory than its weights."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from swarm.blocks import open_checkpoint
from swarm.demo.processes import local_swarm
from tests.swarm.test_lives import LOOPBACK, running

pytestmark = pytest.mark.slow

READY_SECONDS = 10.0
EXTRA_BYTES = 200_000_000

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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_server_of_ten_blocks_is_ready_soon_and_needs_little_beside_its_weights(
    dtype: str, smollm_path: Path, tmp_path: Path
) -> None:
    weights = 10 * open_checkpoint("smollm2-135m").block_bytes(getattr(torch, dtype))
    names = [name for name in imported_by_a_server() if name != "__main__"]
    bare = peak_bytes(subprocess.run([sys.executable, "-c", BARE, *names], capture_output=True, text=True, check=True).stdout)
    with local_swarm((), logs=tmp_path) as swarm:
        started = time.monotonic()
        flags = ("--blocks", "0:10", "--dtype", dtype, "--threads", "2", "--initial-peers", swarm.addr)
        with running("swarm.server", *flags, *LOOPBACK, log=tmp_path / "log") as server:
            server.wait_ready()
            seconds = time.monotonic() - started
            peak = peak_bytes(Path(f"/proc/{server.popen.pid}/status").read_text())
    megabytes = [round(number / 1e6) for number in (peak, bare, weights)]
    print(f"{dtype}: ready after {seconds:.1f} s; peak {megabytes[0]} MB, bare {megabytes[1]} MB, weights {megabytes[2]} MB")
    assert peak <= bare + weights + EXTRA_BYTES
    assert seconds <= READY_SECONDS
