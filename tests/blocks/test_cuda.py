"""Blocks on a CUDA device, against the same blocks on the CPU; and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from swarm.blocks import BlockStack, Row, open_checkpoint
from swarm.blocks.formats import Quant
from swarm.errors import UsageError
from swarm.server import ServerConfig
from swarm.server.choice import fit
from swarm.types import Span
from tests.builders import make_llama
from tests.families import make_tiny

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def _run(stack: BlockStack) -> Tensor:
    """A prompt in two chunks, then a step of two sequences, one of which shares the other's pages and is not whole."""
    hidden = torch.randn(40, stack.config.hidden_size, generator=torch.Generator().manual_seed(0)).to(stack.dtype)
    cache = stack.new_cache(16)
    first, found = cache.new_sequence(), []
    for start, end in ((0, 20), (20, 38)):
        cache.prepare(first, start, end - start)
        found.append(stack.forward(hidden[start:end], [Row(first, start, end - start)], cache))
    second = cache.fork(first, 21)
    for sequence, position in ((first, 38), (second, 21)):
        cache.prepare(sequence, position, 1)
    found.append(stack.forward(hidden[38:40], [Row(first, 38, 1), Row(second, 21, 1)], cache))
    return torch.cat(found)


@needs_cuda
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gemma3_text", "mixtral", "qwen3"])
@pytest.mark.parametrize("quant", ["none", "int8", "int4"])
def test_a_cuda_device_computes_what_the_cpu_does(tmp_path: Path, model_type: str, quant: Quant) -> None:
    make_tiny(tmp_path / "tiny", model_type)
    checkpoint = open_checkpoint(tmp_path / "tiny")
    span = Span(0, checkpoint.config.num_blocks)
    found = _run(BlockStack.load(checkpoint, span, dtype=torch.bfloat16, quant=quant, device="cuda")).double()
    exact = _run(BlockStack.load(checkpoint, span, dtype=torch.float32, quant=quant)).double()
    assert float((found - exact).norm() / exact.norm()) < 0.03  # 8 bits of mantissa, through some blocks


@needs_cuda
def test_float32_on_a_cuda_device_is_exact(tmp_path: Path) -> None:
    make_llama(tmp_path / "tiny", num_blocks=3)
    checkpoint = open_checkpoint(tmp_path / "tiny")
    stacks = [BlockStack.load(checkpoint, Span(0, 3), dtype=torch.float32, device=name) for name in ("cuda", "cpu")]
    found, exact = (_run(stack) for stack in stacks)
    assert [stack.kernel for stack in stacks] == ["cuda", "torch"]
    assert torch.allclose(found, exact, atol=1e-4)


@without_cuda
def test_a_machine_without_cuda_says_so_before_anything_is_loaded(tmp_path: Path) -> None:
    make_llama(tmp_path / "tiny", num_blocks=3)
    checkpoint = open_checkpoint(tmp_path / "tiny")
    with pytest.raises(UsageError, match=r"device cuda:1: this machine has no CUDA device .* choose cpu"):
        fit(ServerConfig(device="cuda:1"), checkpoint)
    with pytest.raises(UsageError, match="no CUDA device"):
        BlockStack.load(checkpoint, Span(0, 3), dtype=torch.float32, device="cuda")


def test_transformers_own_layers_stay_on_the_cpu(tmp_path: Path) -> None:
    make_tiny(tmp_path / "tiny", "gpt_neox")
    checkpoint = open_checkpoint(tmp_path / "tiny")
    with pytest.raises(UsageError, match="device cuda: tiny runs in transformers' own layers: choose cpu"):
        BlockStack.load(checkpoint, Span(0, 1), dtype=torch.float32, device="cuda")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:1:2", ""])
def test_a_device_must_be_named_as_torch_does(device: str) -> None:
    with pytest.raises(UsageError, match=r"--device .*: give auto, cpu, cuda"):
        ServerConfig(device=device)
