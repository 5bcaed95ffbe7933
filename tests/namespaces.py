"""Builder: hosts on one bridge, as network namespaces; some refuse whatever others begin. Needs root.

The refusal is a packet filter of one rule, as a router has it: TCP packets with SYN and without ACK are dropped on
their way in. It is classic BPF at the traffic-control hook, which needs no further program.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from swarm.demo.processes import Process

NETWORK = "45.10.0"
"""Public as libp2p sees it, so that everything behaves as out there; nothing leaves the namespaces."""

_DROP_SYN = "9,40 0 0 12,21 0 5 2048,48 0 0 23,21 0 3 6,48 0 0 47,84 0 0 18,21 1 0 2,6 0 0 0,6 0 0 2,"


@dataclass(frozen=True)
class Host:
    """A namespace with one address."""

    namespace: str
    address: str

    def start(self, *args: str, log: Path | None = None) -> Process:
        """Run `python -m ARGS` there."""
        return Process.start("tests.namespaces", self.namespace, *args, log=log)


def can_make_namespaces() -> bool:
    return os.geteuid() == 0 and all(map(shutil.which, ("ip", "tc", "nsenter"))) and os.path.exists("/sys/class/net")


@contextmanager
def hosts(names: Sequence[str], *, hidden: Sequence[str] = ()) -> Iterator[dict[str, Host]]:
    """Make hosts that see each other; those of `hidden` take no connections."""
    prefix = f"sw{os.getpid()}"
    made: dict[str, Host] = {}
    with ExitStack() as stack:
        bridge = _namespace(stack, f"{prefix}-bridge")
        _run("ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", bridge, "link", "set", "br0", "up")
        for number, name in enumerate(names, start=1):
            host = made[name] = Host(_namespace(stack, f"{prefix}-{name}"), f"{NETWORK}.{number}")
            port, there = f"p{number}", ("-n", host.namespace)
            _run("ip", *there, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", bridge)
            _run("ip", "-n", bridge, "link", "set", port, "master", "br0", "up")
            _run("ip", *there, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _run("ip", *there, "link", "set", "eth0", "up")
            if name in hidden:
                _run("tc", *there, "qdisc", "add", "dev", "eth0", "clsact")
                _run("tc", *there, "filter", "add", "dev", "eth0", "ingress", "bpf", "da", "bytecode", _DROP_SYN)
        yield made


def _namespace(stack: ExitStack, name: str) -> str:
    _run("ip", "netns", "add", name)
    stack.callback(_run, "ip", "netns", "del", name)
    _run("ip", "-n", name, "link", "set", "lo", "up")
    return name


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=20)


if __name__ == "__main__":
    # Goes into the namespace and runs the command there, in the same process: signals reach it.
    import ctypes
    import runpy
    import sys

    CLONE_NEWNET = 0x40000000
    with open(f"/run/netns/{sys.argv[1]}", "rb") as namespace:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.setns(namespace.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
