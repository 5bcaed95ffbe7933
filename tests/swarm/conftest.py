"""Real swarms on this machine, started once and shared: a server takes some seconds to start.

All servers have one compute thread; the reference is transformers on the same files, in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from swarm import AutoModelForCausalLM, AutoTokenizer
from swarm.client import SwarmForCausalLM
from swarm.client.bridge import bridge
from swarm.demo.processes import LocalSwarm, local_swarm
from tests.builders import make_llama
from tests.bundled import transformers_model
from tests.swarm.reference import FP32, Reference

SPANS = {
    1: ("0:30",),
    2: ("0:11", "11:30"),
    3: ("0:7", "7:19", "19:30"),
    5: ("0:3", "3:11", "11:12", "12:25", "25:30"),
}
"""Uneven on purpose, one of a single block: nothing may depend on equal shares."""

Swarms = Callable[[int], tuple[LocalSwarm, SwarmForCausalLM]]


@pytest.fixture(scope="package", autouse=True)
def client_leaves_at_the_end() -> Iterator[None]:
    """End the client's own daemons with the tests, and not only with the process."""
    yield
    bridge().shut_down()


@pytest.fixture(scope="package")
def tokenizer() -> Any:
    """The bundled model's tokenizer."""
    return AutoTokenizer.from_pretrained()


@pytest.fixture(scope="package")
def reference(tokenizer: Any) -> Reference:
    """Plain transformers in float32."""
    return Reference(transformers_model(), tokenizer)


@pytest.fixture(scope="package")
def swarms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarms]:
    """Swarms of 1, 2, 3 and 5 servers that serve the bundled model in float32, each started when first asked for."""
    started: dict[int, tuple[LocalSwarm, SwarmForCausalLM]] = {}
    with ExitStack() as stack:

        def get(num_servers: int) -> tuple[LocalSwarm, SwarmForCausalLM]:
            if num_servers not in started:
                logs = tmp_path_factory.mktemp(f"smollm{num_servers}")
                swarm = stack.enter_context(local_swarm(SPANS[num_servers], server_flags=FP32, logs=logs))
                model = AutoModelForCausalLM.from_pretrained(initial_peers=[swarm.addr], dtype=torch.float32)
                started[num_servers] = (swarm, model)
            return started[num_servers]

        yield get


@pytest.fixture(scope="package")
def model(swarms: Swarms) -> SwarmForCausalLM:
    """The bundled model over three servers."""
    return swarms(3)[1]


@pytest.fixture(scope="package")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of six blocks in float32, as a folder."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    make_llama(folder, seed=1, num_blocks=6)
    return folder


@pytest.fixture(scope="package")
def tiny_swarm(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSwarm]:
    """Two servers, uneven, that serve the tiny model."""
    logs = tmp_path_factory.mktemp("tiny-swarm")
    with local_swarm(("0:4", "4:6"), model=str(tiny_folder), server_flags=FP32, logs=logs) as swarm:
        yield swarm


@pytest.fixture(scope="package")
def tiny(tiny_swarm: LocalSwarm, tiny_folder: Path) -> SwarmForCausalLM:
    """The tiny model over its two servers."""
    return AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[tiny_swarm.addr])
