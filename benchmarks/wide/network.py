"""A network of hosts, each a namespace of its own, as tests and benchmarks see it."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_CLONE_NEWNET = 0x40000000
_STOP_TIMEOUT = 20.0
"""Seconds from SIGTERM to SIGKILL for what still runs at the end: servers drain first."""

_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine of the network.

    Attributes:
        name: How it is called in all calls.
        up_mbit: Rate of its uplink in Mbit/s; None: no limit.
        buffer_bytes: What may wait at the uplink before packets are lost.
        is_closed: Whether nobody can call it: packets come in only as answers, as behind a home router.
        sysctls: Settings of its kernel below `net`, such as {"ipv4.tcp_congestion_control": "cubic"}.
    """

    name: str
    up_mbit: float | None = None
    buffer_bytes: int = 1_000_000
    is_closed: bool = False
    sysctls: Mapping[str, str] = field(default_factory=dict)


def why_not() -> str | None:
    """Return what is missing for a `WideNetwork` here, in one line; None if nothing is."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are a thing of Linux"
    if os.geteuid() != 0:
        return "network namespaces need root: run as root"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun here: load the module tun, or give the container that device"
    for program, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
        if shutil.which(program) is None:
            return f"no program {program!r} here: install the package {package}"
    return None


class WideNetwork:
    """Hosts joined by a network with delay, jitter, loss and rates; made and taken down by `with`.

    Args:
        hosts: At most 200.
        delay: Seconds, one way, between any two hosts.
        jitter: Seconds that a packet takes longer at most.
        loss: Share of packets lost.
        prefix: First three numbers of the hosts' addresses. Nothing leaves the machine, so that any will do; libp2p
            takes some for private (10., 192.168., 198.18.) and asks nobody whether they can be reached.
        seed: Of losses and jitter.

    Raises:
        OSError: It cannot be made; see `why_not`.

    Example:
        with WideNetwork([Host(name="client"), Host(name="server", up_mbit=100)], delay=0.04) as net:
            server = net.run("server", ["python", "-m", "http.server"])
            net.run("client", ["curl", f"http://{net.address('server')}:8000"]).wait()
            net.cut("client", "server")
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        *,
        delay: float = 0.0,
        jitter: float = 0.0,
        loss: float = 0.0,
        prefix: str = "10.77.0",
        seed: int = 0,
    ) -> None:
        self._hosts = {host.name: index for index, host in enumerate(hosts)}
        if len(self._hosts) != len(hosts) or not 0 < len(hosts) <= 200:
            raise ValueError("give 1 to 200 hosts with different names")
        self._prefix = prefix
        self._config = {
            "hosts": [
                {
                    "bits_per_s": None if host.up_mbit is None else 1e6 * host.up_mbit,
                    "buffer_bytes": host.buffer_bytes,
                    "is_closed": host.is_closed,
                    "sysctls": dict(host.sysctls),
                }
                for host in hosts
            ],
            "terms": {"delay": delay, "jitter": jitter, "loss": loss},
            "prefix": prefix,
            "seed": seed,
        }
        self._forwarder: subprocess.Popen[str] | None = None
        self._namespaces: list[int] = []
        self._running: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Self:
        if (missing := why_not()) is not None:
            raise OSError(missing)
        self._forwarder = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.wide.forwarder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        try:
            self._namespaces = self._ask(self._config)["namespaces"]
        except BaseException:
            self._forwarder.kill()
            self._forwarder.wait()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop_all()
        finally:
            assert self._forwarder is not None and self._forwarder.stdin is not None
            self._forwarder.stdin.close()  # it ends with what is left inside
            self._forwarder.wait()
            assert self._forwarder.stdout is not None
            self._forwarder.stdout.close()

    def address(self, host: str) -> str:
        """Return a host's IPv4 address."""
        return f"{self._prefix}.{self._hosts[host] + 1}"

    def namespace(self, host: str) -> str:
        """Return the path of a host's network namespace, for `nsenter --net=PATH` or `enter`."""
        assert self._forwarder is not None
        return f"/proc/{self._forwarder.pid}/fd/{self._namespaces[self._hosts[host]]}"

    def prefix(self, host: str) -> list[str]:
        """Return the words that, put in front of a command, run it on a host."""
        return ["nsenter", f"--net={self.namespace(host)}", "--"]

    def run(self, host: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command on a host; what still runs at the end is ended then. `options` are Popen's."""
        process = subprocess.Popen([*self.prefix(host), *argv], **options)
        self._running.append(process)
        return process

    def socket(self, host: str, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        """Return a new IPv4 socket of a host, in this process."""
        with _inside(self.namespace(host)):
            return socket.socket(socket.AF_INET, kind, protocol)

    def cut(self, one: str, other: str | None = None) -> None:
        """Let nothing through between two hosts, or between one and all others; packets under way are lost too."""
        self._cut(one, other, is_cut=True)

    def mend(self, one: str, other: str | None = None) -> None:
        """Let packets through again."""
        self._cut(one, other, is_cut=False)

    def set(self, *, between: tuple[str, str] | None = None, **terms: float) -> None:
        """Change `delay`, `jitter` or `loss` of the whole network, or of one pair, for packets sent from now on."""
        pair = None if between is None else [self._hosts[name] for name in between]
        self._ask({"do": "terms", "pair": pair, **terms})

    def set_rate(self, host: str, up_mbit: float | None) -> None:
        """Change the rate of a host's uplink."""
        bits = None if up_mbit is None else 1e6 * up_mbit
        self._ask({"do": "rate", "host": self._hosts[host], "bits_per_s": bits})

    def set_closed(self, host: str, is_closed: bool) -> None:
        """Let nobody call a host from now on, or let everybody."""
        self._ask({"do": "close", "host": self._hosts[host], "is_closed": is_closed})

    def stats(self) -> dict[str, float]:
        """Return packets `passed`, `lost`, `overflowed`, `stopped`, and the forwarder's `cpu_seconds`, so far."""
        found: dict[str, float] = self._ask({"do": "stats"})
        return found

    def _cut(self, one: str, other: str | None, *, is_cut: bool) -> None:
        target = None if other is None else self._hosts[other]
        self._ask({"do": "cut", "one": self._hosts[one], "other": target, "is_cut": is_cut})

    def _ask(self, words: Mapping[str, Any]) -> Any:
        assert self._forwarder is not None
        assert self._forwarder.stdin is not None and self._forwarder.stdout is not None
        with suppress(BrokenPipeError):
            self._forwarder.stdin.write(json.dumps(words) + "\n")
            self._forwarder.stdin.flush()
        line = self._forwarder.stdout.readline()
        if not line:
            raise OSError(f"the forwarder of the network ended with status {self._forwarder.wait()}; see its stderr")
        return json.loads(line)

    def _stop_all(self) -> None:
        alive = [process for process in self._running if process.poll() is None]
        for process in alive:
            process.send_signal(signal.SIGTERM)
        for process in alive:
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def enter(namespace: str) -> None:
    """Move this thread, and those that it starts from now on, into a network namespace.

    Raises:
        OSError: There is none at this path, or we may not.
    """
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        _set(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _inside(namespace: str) -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        enter(namespace)
        yield
    finally:
        _set(home)
        os.close(home)


def _set(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace")
