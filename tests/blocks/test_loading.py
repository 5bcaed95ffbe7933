"""How much memory a process takes while it loads: the packed weights, and little more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swarm.blocks.native.binding import library
from tests.builders import make_llama

MIB = 2**20

SCRIPT = """
import sys, torch
from swarm.blocks import BlockStack, open_checkpoint
from swarm.types import Span

def load(model, num_blocks):
    checkpoint = open_checkpoint(model)
    return BlockStack.load(checkpoint, Span(0, num_blocks), dtype=torch.bfloat16, quant=sys.argv[3])

def peak():  # not getrusage's, which begins with that of the process that started us
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

load(sys.argv[2], 1)  # code, libraries and threads' arenas belong to the base process
base = peak()
stack = load(sys.argv[1], 5)
print(base, peak(), stack.weight_bytes)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, and one with blocks of 30 MiB in 16 bits."""
    made = tmp_path_factory.mktemp("loading")
    make_llama(made / "small", dtype=torch.bfloat16)
    settings = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "vocab_size": 32}
    make_llama(made / "large", dtype=torch.bfloat16, num_blocks=5, **settings)
    return made


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's accounts")
@pytest.mark.parametrize(
    "quant",
    [
        pytest.param("none", marks=pytest.mark.slow),
        pytest.param("int8", marks=pytest.mark.slow),
        pytest.param(
            "int4",
            marks=pytest.mark.skipif(library() is None, reason="torch's own 4-bit packing takes 32 bits a weight"),
        ),
    ],
)
def test_loading_peaks_at_the_packed_weights_and_one_block(folder: Path, quant: str) -> None:
    words = [sys.executable, "-c", SCRIPT, str(folder / "large"), str(folder / "small"), quant]
    ended = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    base, peak, packed = map(int, ended.stdout.split())
    block = packed / 5
    print(f"{quant}: base {base / MIB:.0f} MiB, {(peak - base) / MIB:.0f} over it for {packed / MIB:.0f} of weights")
    # Readers' temporaries are slices of a MiB, decoded to float32, a few for each of four threads.
    assert packed < peak - base <= 1.05 * packed + block + 32 * MIB
