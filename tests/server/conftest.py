"""A tiny model's blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from swarm.blocks import BlockStack, open_checkpoint
from swarm.types import Span
from tests.builders import make_llama


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> BlockStack:
    """The three blocks of a tiny model, float32."""
    folder: Path = tmp_path_factory.mktemp("tiny") / "tiny"
    make_llama(folder, 1)
    return BlockStack.load(open_checkpoint(str(folder)), Span(0, 3), dtype=torch.float32)
