"""The threads that share a product: after a fork, in numbers beyond the cores, and all at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from swarm.blocks.native.binding import library

pytestmark = pytest.mark.skipif(library() is None, reason="the native kernels are not built")

SCRIPT = """
import os, time, torch
from swarm.blocks.native.linear import NativeLinear
torch.set_num_threads(2)
layer, x = NativeLinear(torch.randn(576, 576)), torch.randn(3, 576)
once = layer(x)

for pause in (0, 0.0001, 0.01):  # the threads spin, are about to sleep, sleep
    for _ in range(30):
        time.sleep(pause)
        assert torch.equal(layer(x), once), pause
time.sleep(0.1)
before = time.process_time()
time.sleep(0.3)
assert time.process_time() - before < 0.1, "idle threads use the processor"

children = []
for _ in range(3):
    if not (child := os.fork()):
        os._exit(0 if all(torch.equal(layer(x), once) for _ in range(20)) else 1)
    children.append(child)
assert all(torch.equal(layer(x), once) for _ in range(20)), "beside its forks"
assert not any(os.waitpid(child, 0)[1] for child in children), "in a fork"

for threads in (2, 5, 40, 3000, 2):
    torch.set_num_threads(threads)
    for _ in range(10):
        assert torch.equal(layer(x), once), threads
"""


def test_threads_finish_and_sleep_idle_after_a_fork_and_in_any_number() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
