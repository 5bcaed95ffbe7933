"""One bootstrap peer, and servers of models that each have another fault, started once: each takes some seconds.

A fault is told from the others by its model's name, so that all can live in one swarm.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from swarm.cli import parse_flags
from swarm.demo.processes import Process
from swarm.doctor import DoctorConfig, Finding, Level
from swarm.doctor.examination import examine
from tests import zygote
from tests.builders import make_llama

LOOPBACK = ("--host-maddrs", "/ip4/127.0.0.1/tcp/0")
SERVE = (*LOOPBACK, "--threads", "1", "--dtype", "float32", "--throughput", "1000")

STARTING = 4.0
"""Seconds of a whole core that a command takes to start Python and load its libraries, with room; how long it takes on
cores that others use says nothing of the doctor, so this stands for it."""

LIMIT = 15.0


@dataclass
class Ward:
    """A swarm with faults.

    Attributes:
        addr: The bootstrap peer's.
        folder: Of the checkpoints, each under its model's name.
        peers: Peer ids of the servers, by name.
    """

    addr: str
    folder: Path
    processes: dict[str, Process] = field(default_factory=dict)
    peers: dict[str, str] = field(default_factory=dict)

    def start(self, name: str, *args: str) -> None:
        self.processes[name] = Process.start(*args, log=self.folder / f"{name}.log")

    def model(self, name: str) -> str:
        """A checkpoint of six blocks, made when first asked for."""
        folder = self.folder / name
        if not folder.exists():
            make_llama(folder, seed=1, num_blocks=6)
        return str(folder)

    def serve(self, name: str, blocks: str, *flags: str, model: str = "", command: str = "swarm.server") -> None:
        model = model or self.model(name)
        self.start(name, command, model, "--blocks", blocks, "--initial-peers", self.addr, *SERVE, *flags)

    def wait_ready(self) -> None:
        for name, process in self.processes.items():
            if name != "bootstrap":
                self.peers[name] = process.wait_ready()["peer"]

    def kill(self, name: str) -> None:
        """End a process and its daemon at once, without goodbyes."""
        process = self.processes.pop(name).popen
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.kill()
        process.wait()

    def stop(self) -> None:
        for name in tuple(self.processes):
            self.kill(name)


@pytest.fixture(scope="package")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """The swarm, all servers ready."""
    folder = tmp_path_factory.mktemp("ward")
    swarm = Ward("", folder)
    try:
        swarm.start("bootstrap", "swarm.bootstrap", *LOOPBACK)
        swarm.addr = swarm.processes["bootstrap"].wait_ready()["addr"]
        swarm.start("late", "tests.doctor.shifted", "60", "swarm.bootstrap", *LOOPBACK)
        swarm.serve("tiny", "0:4")
        swarm.serve("tiny-rest", "4:6", model=swarm.model("tiny"))
        swarm.serve("closing", "0:6")
        swarm.serve("newer", "0:6", command="tests.doctor.newer")
        swarm.serve("edited", "0:6", model=_edited(folder / "elsewhere" / "edited"))
        swarm.wait_ready()
        yield swarm
    finally:
        swarm.stop()


def _edited(folder: Path) -> str:
    """The checkpoint that all have, but for one matrix of block 3."""
    make_llama(folder, seed=1, num_blocks=6)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.3.mlp.down_proj.weight"
    tensors[name] = tensors[name] + torch.eye(*tensors[name].shape)
    save_file(tensors, file, metadata={"format": "pt"})
    return str(folder)


Examine = Callable[..., Awaitable[list[Finding]]]


@pytest.fixture
def diagnose() -> Examine:
    """Examines with the doctor's flags, and sees to it that a command would have been in time."""

    async def run(*argv: str) -> list[Finding]:
        began = time.monotonic()
        findings = await examine(parse_flags(DoctorConfig, argv))
        assert time.monotonic() - began + STARTING <= LIMIT
        return findings

    return run


def faults(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level is Level.FAULT]


def codes(findings: Sequence[Finding]) -> list[str]:
    """The codes of the faults."""
    return [finding.code.number for finding in faults(findings) if finding.code]


def doctor(*argv: str, module: tuple[str, ...] = ("swarm.doctor",)) -> tuple[int, list[str], str]:
    """Run the command; return its status, the codes of its faults, and all that it printed."""
    command = [sys.executable, "-m", *module, *argv, "--json"]
    ended = zygote.run(command, timeout=90)
    assert ended.stdout, ended.stderr
    return ended.returncode, codes_told(ended.stdout), ended.stdout


def codes_told(printed: str) -> list[str]:
    """The codes of the faults in what `--json` prints, which must have come in time."""
    told = json.loads(printed)
    assert told["seconds"] + STARTING <= LIMIT, printed
    return [each["code"] for each in told["findings"] if each["level"] == "fault"]
