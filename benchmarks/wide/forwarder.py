"""The process between all hosts: it makes their namespaces, and passes their packets on in time.

It owns the namespaces by open file descriptors only: they have no names, so that nothing is left of them once it and
the processes inside have ended, however that happens. When its stdin ends, its parent has, and it ends what still runs
inside. Commands come on stdin, a JSON object a line, and each is answered by one on stdout.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from io import RawIOBase
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.wide.terms import Paths, Terms, Uplink

INTERFACE = "wan0"
MTU = 1500
_BATCH = 32
"""Packets read from one host before others have their turn."""

_EARLY = 0.0002
"""Seconds that a packet may arrive too soon, so that some share a wake-up: about what waking takes us too long."""

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000

_LIBC = ctypes.CDLL(None, use_errno=True)


class Port:
    """A host's namespace, and the descriptor at which its packets come out and go in."""

    def __init__(self, address: str, sysctls: dict[str, str]) -> None:
        """Must be called on the main thread; leaves it in the new namespace."""
        if _LIBC.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "no new network namespace can be made")
        self.namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.tun, _TUNSETIFF, struct.pack("16sH22x", INTERFACE.encode(), _IFF_TUN | _IFF_NO_PI))
        for words in (
            f"addr add {address}/24 dev {INTERFACE}",
            f"link set {INTERFACE} mtu {MTU} txqueuelen 1000 up",
            f"route add default dev {INTERFACE}",
            "link set lo up",
        ):
            subprocess.run(["ip", *words.split()], check=True, stdout=sys.stderr)
        for name, value in sysctls.items():
            Path("/proc/sys/net", *name.split(".")).write_text(value, encoding="ascii")


@contextmanager
def _every_congestion_control() -> Iterator[None]:
    """Let new namespaces choose any that the kernel has: some are kept for the first namespace."""
    folder = Path("/proc/sys/net/ipv4")
    # Opened here, for it is out of reach from other namespaces.
    with open(folder / "tcp_allowed_congestion_control", "r+b", buffering=0) as allowed:
        before = allowed.read()
        allowed.seek(0)
        allowed.write((folder / "tcp_available_congestion_control").read_bytes())
        try:
            yield
        finally:
            allowed.seek(0)
            allowed.write(before)


class Forwarder:
    """Reads packets, asks `Paths` what becomes of them, and delivers them when they are due."""

    def __init__(self, config: dict[str, Any]) -> None:
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        hosts, prefix = config["hosts"], config["prefix"]
        self._ports: list[Port] = []
        with _every_congestion_control():
            for number, host in enumerate(hosts, start=1):
                self._ports.append(Port(f"{prefix}.{number}", host["sysctls"]))
        if _LIBC.setns(home, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "cannot go back to the first namespace")
        uplinks = [Uplink(host["bits_per_s"], host["buffer_bytes"]) for host in hosts]
        self._paths = Paths(uplinks, Terms(**config["terms"]), seed=config["seed"])
        for index, host in enumerate(hosts):
            if host["is_closed"]:
                self._paths.set_closed(index, True)
        self._prefix = bytes(int(part) for part in prefix.split("."))
        self._due: list[tuple[float, int, int, int, bytes]] = []
        self._order = count()

    @property
    def namespaces(self) -> list[int]:
        """The descriptors of the hosts' namespaces."""
        return [port.namespace for port in self._ports]

    def run(self, commands: RawIOBase) -> None:
        """Pass packets on until `commands` end."""
        tuns = {port.tun: index for index, port in enumerate(self._ports)}
        watched, due = [*tuns, commands.fileno()], self._due
        while True:
            wait = None if not due else max(0.0, due[0][0] - time.perf_counter())
            for descriptor in select.select(watched, (), (), wait)[0]:
                if descriptor in tuns:
                    self._take(tuns[descriptor], descriptor)
                elif not self._obey(commands.readline()):
                    return
            soon = time.perf_counter() + _EARLY
            while due and due[0][0] <= soon:
                _, _, source, target, packet = heapq.heappop(due)
                if self._paths.is_let_in(source, target, packet):
                    with suppress(OSError):  # the host's own queue is full: lost as anywhere
                        os.write(self._ports[target].tun, packet)

    def _take(self, source: int, tun: int) -> None:
        num_hosts, prefix = len(self._ports), self._prefix
        for _ in range(_BATCH):
            try:
                packet = os.read(tun, 2048)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4 or packet[16:19] != prefix or not 0 < packet[19] <= num_hosts:
                continue  # IPv6's neighbour talk, multicast, the world outside
            target = packet[19] - 1
            arrival = self._paths.arrival(source, target, packet, time.perf_counter())
            if arrival is not None:
                heapq.heappush(self._due, (arrival, next(self._order), source, target, packet))

    def _obey(self, line: bytes) -> bool:
        if not line:
            return False
        words = json.loads(line)
        paths, answer = self._paths, {}
        match words.pop("do"):
            case "terms":
                pair = words.pop("pair")
                paths.set_terms(words, None if pair is None else (pair[0], pair[1]))
            case "rate":
                paths.set_rate(words["host"], words["bits_per_s"])
            case "cut":
                paths.set_cut(words["one"], words["other"], words["is_cut"])
            case "close":
                paths.set_closed(words["host"], words["is_closed"])
            case "stats":
                used = resource.getrusage(resource.RUSAGE_SELF)
                answer = {**asdict(paths.counts), "cpu_seconds": used.ru_utime + used.ru_stime}
        print(json.dumps(answer), flush=True)
        return True

    def end_all(self) -> None:
        """Kill every process inside the namespaces: their parent had its time to end them in order."""
        ours = {os.fstat(port.namespace).st_ino for port in self._ports}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.stat(folder / "ns" / "net").st_ino in ours:
                    os.kill(int(folder.name), signal.SIGKILL)


def main() -> None:
    """Read what to build from the first line of stdin; say where the namespaces are; forward."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which still needs the network to end
    # Unbuffered, for `select` sees the descriptor only: a second command must not hide in a buffer of ours.
    commands = os.fdopen(0, "rb", buffering=0)
    forwarder = Forwarder(json.loads(commands.readline()))
    with suppress(PermissionError):  # servers under load must not hold packets up; we are idle most of the time
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    print(json.dumps({"namespaces": forwarder.namespaces}), flush=True)
    try:
        forwarder.run(commands)
    finally:
        forwarder.end_all()


if __name__ == "__main__":
    main()
