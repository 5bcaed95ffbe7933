"""The door of the room."""

from __future__ import annotations

import subprocess
import sys

import pytest

import swarm.blocks


def test_every_name_at_the_door_is_there() -> None:
    for name in swarm.blocks.__all__:
        assert getattr(swarm.blocks, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        swarm.blocks.nothing  # noqa: B018


def test_opening_a_folder_imports_neither_transformers_nor_gguf() -> None:
    script = "import sys, swarm.blocks.span; print({'transformers', 'gguf'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"
