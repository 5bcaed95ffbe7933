"""One thread for tiny tensors: on busy cores two threads wait for each other longer than they compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from swarm.blocks import BlockStack, open_checkpoint
from swarm.types import Span
from tests.builders import make_llama


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread, and give the others back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> BlockStack:
    """The three blocks of a tiny model, float32."""
    folder: Path = tmp_path_factory.mktemp("tiny") / "tiny"
    make_llama(folder, 1)
    return BlockStack.load(open_checkpoint(str(folder)), Span(0, 3), dtype=torch.float32)
