"""Starting real bootstrap and server processes on this machine, and stopping them.

The demo, the tests and the benchmarks all run swarms with this, so that what they show is what
people run. Everything listens on loopback, on free ports.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, ClassVar

from swarm.errors import UnavailableError

READY_TIMEOUT = 60.0
"""Seconds for a process to say ready: ten times what it takes, for machines under load."""

STOP_TIMEOUT = 30.0
"""Seconds from SIGTERM to SIGKILL: a server drains first."""


@dataclass(eq=False)
class Process:
    """A command of ours, running.

    Attributes:
        popen: The operating system's side.
        lines: Lines of its stdout so far.
        log: Where its stderr goes.
        started_at: Monotonic time.
        spawn: What starts the operating system's side; the tests have a quicker one.
    """

    popen: subprocess.Popen[str]
    log: Path | None
    started_at: float
    lines: list[str] = field(default_factory=list)
    _arrived: queue.SimpleQueue[str | None] = field(default_factory=queue.SimpleQueue)
    spawn: ClassVar[type[subprocess.Popen[str]]] = subprocess.Popen

    @classmethod
    def start(
        cls, *args: str, log: Path | None = None, env: dict[str, str] | None = None, inside: Sequence[str] = ()
    ) -> Process:
        """Run `python -m ARGS` in its own process group; stderr goes to the file `log`, else to ours.

        Args:
            args: What to run.
            log: Where its stderr goes.
            env: Variables beside ours.
            inside: A command that runs the rest of its line, such as nsenter's; it must become that process.
        """
        sink: IO[str] | None = open(log, "w", encoding="utf-8") if log else None  # noqa: SIM115 - the child's
        try:
            popen = (subprocess.Popen if inside else cls.spawn)(
                [*inside, sys.executable, "-m", *args],
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        finally:
            if sink is not None:
                sink.close()
        process = cls(popen, log, time.monotonic())
        threading.Thread(target=process._read, daemon=True).start()
        return process

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> dict[str, str]:
        """Return the key=value pairs of the `ready` line.

        Raises:
            UnavailableError: The process ended, or was not ready in time; its last words are quoted.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                late = f"{self._name()} was not ready within {timeout:.0f} s"
                raise UnavailableError(f"{late}{self._last_words()}") from None
            if line is None:
                raise UnavailableError(f"{self._name()} ended with status {self.popen.wait()}{self._last_words()}")
            if line.startswith("ready "):
                return dict(word.split("=", 1) for word in line.split()[1:])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, insist if need be, and return the exit status."""
        with suppress(ProcessLookupError):
            self.popen.send_signal(number)
        return self.wait_stopped()

    def wait_stopped(self) -> int:
        """Wait for the end of a process that was told to stop, insist if need be, and return the exit status."""
        try:
            return self.popen.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip("\n"))
            self._arrived.put(self.lines[-1])
        self._arrived.put(None)

    def _name(self) -> str:
        words = [str(word) for word in self.popen.args]  # type: ignore[union-attr]
        begin = words.index("-m")
        return " ".join(words[begin : begin + 3])

    def _last_words(self) -> str:
        if self.log is None:
            return ""
        words = self.log.read_text(encoding="utf-8").strip().splitlines()[-3:]
        return ": " + " | ".join(words) if words else ""


@dataclass(frozen=True)
class LocalSwarm:
    """A bootstrap peer and servers, all processes of this machine.

    Attributes:
        bootstrap: The bootstrap process.
        servers: In the order of the spans asked for.
        addr: The bootstrap's multiaddr: what `initial_peers` needs.
        ready: The servers' `ready` lines.
    """

    bootstrap: Process
    servers: tuple[Process, ...]
    addr: str
    ready: tuple[dict[str, str], ...]


@contextmanager
def local_swarm(
    blocks: Sequence[str],
    *,
    model: str | None = None,
    server_flags: Sequence[str] = (),
    logs: Path | None = None,
    swarm_key: Path | None = None,
) -> Iterator[LocalSwarm]:
    """Run a bootstrap peer and one server for each entry of `blocks` ("0:10", "12", "auto"); stop them at the end.

    Args:
        blocks: What `--blocks` says, server by server.
        model: MODEL of all servers; the bundled one by default.
        server_flags: Further flags of all servers.
        logs: Folder for the processes' stderr; ours by default.
        swarm_key: Key file of all of them; by default the swarm is open to all.
    """
    running: list[Process] = []

    def start(name: str, *args: str) -> Process:
        process = Process.start(*args, log=logs / f"{name}.log" if logs else None)
        running.append(process)
        return process

    try:
        key = ["--swarm-key", str(swarm_key)] if swarm_key else []
        bootstrap = start("bootstrap", "swarm.bootstrap", "--new-swarm", "--host-maddrs", "/ip4/127.0.0.1/tcp/0", *key)
        addr = bootstrap.wait_ready()["addr"]
        common = ["--initial-peers", addr, "--host-maddrs", "/ip4/127.0.0.1/tcp/0", *key, *server_flags]
        first = ["swarm.server", *([model] if model else [])]
        servers = tuple(
            start(f"server{index}", *first, "--blocks", wanted, *common) for index, wanted in enumerate(blocks)
        )
        ready = tuple(server.wait_ready() for server in servers)
        yield LocalSwarm(bootstrap, servers, addr, ready)
    finally:
        _stop_all(running)


def _stop_all(processes: list[Process]) -> None:
    """End the servers together, then the bootstrap: their goodbyes still reach it."""
    for process in processes[1:]:
        with suppress(ProcessLookupError):
            process.popen.send_signal(signal.SIGTERM)
    for process in processes[1:]:
        process.wait_stopped()
    for process in processes[:1]:
        process.stop()
