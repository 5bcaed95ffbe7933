"""A swarm on a wide-area network: a bootstrap peer, servers and a client, each on a host of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.wide.network import Host, WideNetwork
from swarm.demo.processes import Process

BOOTSTRAP, CLIENT = "bootstrap", "client"


@dataclass(frozen=True)
class WideSwarm:
    """A swarm whose processes all run.

    Attributes:
        net: Its hosts are `BOOTSTRAP`, `CLIENT`, "server0", "server1" and so on.
        addr: The bootstrap's multiaddr: what `initial_peers` needs.
        servers: In the order of the spans asked for.
    """

    net: WideNetwork
    addr: str
    servers: tuple[Process, ...]


@contextmanager
def wide_swarm(
    blocks: Sequence[str],
    *,
    up_mbit: float | None,
    server_flags: Sequence[str] = (),
    sysctls: dict[str, str] | None = None,
    logs: Path | None = None,
    seed: int = 0,
) -> Iterator[WideSwarm]:
    """Run one server for each entry of `blocks` on a network that has no delay yet; stop everything at the end.

    Args:
        blocks: What `--blocks` says, server by server.
        up_mbit: Rate of each host's uplink.
        server_flags: Further flags of all servers.
        sysctls: Kernel settings of all hosts.
        logs: Folder for the processes' stderr; ours by default.
        seed: Of the network's losses.
    """
    names = [f"server{index}" for index in range(len(blocks))]
    hosts = [Host(name=name, up_mbit=up_mbit, sysctls=sysctls or {}) for name in (BOOTSTRAP, CLIENT, *names)]
    running: list[Process] = []
    with WideNetwork(hosts, seed=seed) as net:

        def start(host: str, *args: str) -> Process:
            log = logs / f"{host}.log" if logs else None
            here = ["--host-maddrs", f"/ip4/{net.address(host)}/tcp/0"]
            running.append(Process.start(*args, *here, log=log, inside=net.prefix(host)))
            return running[-1]

        try:
            addr = start(BOOTSTRAP, "swarm.bootstrap").wait_ready()["addr"]
            flags = ["--initial-peers", addr, *server_flags]
            servers = [
                start(name, "swarm.server", "--blocks", wanted, *flags)
                for name, wanted in zip(names, blocks, strict=True)
            ]
            for server in servers:
                server.wait_ready()
            yield WideSwarm(net, addr, tuple(servers))
        finally:
            net.set(delay=0.0, jitter=0.0, loss=0.0)  # goodbyes need no patience
            for process in reversed(running):
                with suppress(ProcessLookupError):
                    process.popen.send_signal(signal.SIGTERM)
            for process in running:
                process.wait_stopped()
