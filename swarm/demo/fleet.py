"""Servers that come and go: real processes of this machine, each with a name and a key of its own, in one swarm."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from swarm.demo.processes import Process
from swarm.types import PeerId

LOOPBACK = ("--host-maddrs", "/ip4/127.0.0.1/tcp/0")


class Fleet:
    """A bootstrap peer and named servers; made by `fleet`.

    Attributes:
        addr: The bootstrap's multiaddr: what `initial_peers` needs.
        servers: Those that run, by name.
    """

    def __init__(self, folder: Path, flags: Sequence[str], swarm_key: Path | None = None) -> None:
        self.folder = folder
        self.servers: dict[str, Process] = {}
        self._key = ("--swarm-key", str(swarm_key)) if swarm_key else ()
        self._flags = (*self._key, *flags)
        self._peers: dict[PeerId, str] = {}
        self._commands: dict[str, tuple[str, ...]] = {}
        self.bootstrap, self.addr = self._start_bootstrap(LOOPBACK)

    def start(self, spans: Mapping[str, str], *flags: str, model: str | None = None) -> None:
        """Start servers at once and wait until they are ready; arguments as of `launch`."""
        self.launch(spans, *flags, model=model)
        self.wait_ready(*spans)

    def launch(
        self, spans: Mapping[str, str], *flags: str, model: str | None = None, command: str = "swarm.server"
    ) -> None:
        """Start servers at once.

        Args:
            spans: For each name what `--blocks` says.
            flags: Further flags of these.
            model: MODEL; the bundled one by default.
            command: What is run, with a server's flags.
        """
        for name, blocks in spans.items():
            key = str(self.folder / f"{name}.key")
            words = [command, *([model] if model else []), "--blocks", blocks, "--identity-path", key]
            where = () if LOOPBACK[0] in flags else LOOPBACK
            self._commands[name] = (*words, "--initial-peers", self.addr, *where, *self._flags, *flags)
            self._run(name)

    def wait_ready(self, *names: str) -> None:
        """Wait until servers are ready; from then on `name` knows them."""
        for name in names:
            self._peers[PeerId(self.servers[name].wait_ready()["peer"])] = name

    def restart(self, *names: str) -> None:
        """Start servers again that have ended, with the same keys, and wait until they are ready."""
        for name in names:
            self._run(name)
        self.wait_ready(*names)

    def restart_bootstrap(self) -> None:
        """Start the bootstrap again, which has ended, with the same key at the same address."""
        self.bootstrap, addr = self._start_bootstrap(("--host-maddrs", self.addr.rpartition("/p2p/")[0]))
        assert addr == self.addr

    def name(self, peer: PeerId) -> str:
        """Return the name of the server with this peer id."""
        return self._peers[peer]

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a server a signal; one that ends by SIGKILL is waited for."""
        self.servers[name].popen.send_signal(number)
        if number is signal.SIGKILL:
            self.servers.pop(name).popen.wait()

    def stop(self) -> None:
        """End all processes."""
        everyone = [*self.servers.values(), self.bootstrap]
        for process in everyone:
            for number in (signal.SIGCONT, signal.SIGTERM):
                with suppress(ProcessLookupError):
                    process.popen.send_signal(number)
        for process in everyone:
            process.wait_stopped()

    def _run(self, name: str) -> None:
        self.servers[name] = Process.start(*self._commands[name], log=self.folder / f"{name}.log")

    def _start_bootstrap(self, where: Sequence[str]) -> tuple[Process, str]:
        key = str(self.folder / "bootstrap.key")
        words = ["swarm.bootstrap", "--new-swarm", "--identity-path", key, *where, *self._key]
        process = Process.start(*words, log=self.folder / "bootstrap.log")
        try:
            return process, process.wait_ready()["addr"]
        except BaseException:
            process.stop()
            raise


@contextmanager
def fleet(*flags: str, swarm_key: Path | None = None) -> Iterator[Fleet]:
    """Run a bootstrap peer, and servers as they are asked for, until the block is left.

    Args:
        flags: Of all servers, such as `--threads 1`.
        swarm_key: Key file of a private swarm; by default it is open to all.
    """
    with tempfile.TemporaryDirectory(prefix="swarm-fleet-") as folder:
        running = Fleet(Path(folder), flags, swarm_key)
        try:
            yield running
        finally:
            running.stop()
