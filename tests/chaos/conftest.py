"""One swarm for all chaos tests of a run: starting it takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.client.bridge import bridge
from tests.builders import make_llama
from tests.chaos.yard import LINKED, MAX_SESSIONS, SPANS, Yard, yard

SMALL_SPANS = {"left": "0:3", "right": "3:6"}
"""Of a tiny model: nobody can take their place."""

SMALL_FLAGS = ("--max-sessions", f"{MAX_SESSIONS}", "--throughput", "1000")


@pytest.fixture(scope="package")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of six blocks, as a folder."""
    folder = tmp_path_factory.mktemp("chaos") / "small"
    make_llama(folder, seed=5, num_blocks=6, max_position_embeddings=512)
    return folder


@pytest.fixture(scope="package")
def swarm(small_folder: Path) -> Iterator[Yard]:
    """Servers of the bundled model, each block at several, and of a tiny one, each block at one."""
    with yard() as running:
        running.add(SPANS, linked=LINKED)
        running.add(SMALL_SPANS, *SMALL_FLAGS, model=str(small_folder), linked=("right",))
        running.settle()
        yield running
        bridge().shut_down()
