"""Starting the libp2p daemon, and ending it in all cases.

The daemon is the program that hivemind ships. We start it ourselves, in a session of its own:
hivemind would leave it in ours, where a Ctrl-C in the terminal ends it before we could say goodbye.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from importlib.resources import as_file, files
from typing import Any

from hivemind.p2p import P2P
from hivemind.utils.multiaddr import Multiaddr as DaemonMultiaddr

from swarm.errors import AddressInUse, AddressInvalid, DaemonDied
from swarm.log import get_logger
from swarm.network.addresses import direct_endpoint, parse_host_addr, tcp_endpoint
from swarm.network.config import NetworkConfig
from swarm.network.daemon import Daemon
from swarm.network.identity import Identity

_IDLE_TIMEOUT = "10s"
"""The daemon ends by itself so long after our last connection to it, should we be killed."""

_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Of unary calls, which only the directory makes; the most that hivemind's own client takes."""

_CIRCUIT_LIFE = "24h"
"""Of a connection that we relay for others: the daemon's own 30 minutes would end sessions that are in use.

The daemon relays by these limits only once others told it that it is public, which takes them some seconds; before, and
in private networks for ever, by libp2p's own, which are of no use to us (see `swarm.network.circuits`)."""

_CIRCUIT_BUFFER_BYTES = 64 * 1024
"""Of each direction of such a connection; the daemon would take 16 MiB, and a few strangers all of our memory."""

_CIRCUITS_OF_A_PEER = 64
"""Such connections of one peer: a hidden server has one for each client and hop that uses it."""

_READY = b"Peer ID:"

logger = get_logger(__name__)


@asynccontextmanager
async def running_daemon(config: NetworkConfig, identity: Identity) -> AsyncIterator[Daemon]:
    """Start the daemon; leaving the block ends it, with its sockets.

    Raises:
        AddressInUse: Another process listens where we should.
        AddressInvalid: A host address that this machine does not have.
        DaemonDied: It did not come up.
    """
    _check_host_addrs(config.host_maddrs if config.is_listening else ())
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        control_path = f"{folder}/control.sock"
        process = await _spawn(_arguments(config, identity, control_path))
        tail: deque[bytes] = deque(maxlen=5)
        reading: asyncio.Task[None] | None = None
        p2p: Any = None
        try:
            await _wait_ready(process, tail, config)
            reading = asyncio.create_task(_log_output(process))
            async with asyncio.timeout(config.timeouts.startup):
                p2p = await P2P.replicate(DaemonMultiaddr(f"/unix{control_path}"))
            yield Daemon(process, p2p, folder, config.timeouts)
        except TimeoutError as error:
            if p2p is not None:
                raise
            raise DaemonDied("the libp2p daemon does not answer; start the process again") from error
        finally:
            await _end(process, p2p, config.timeouts.close)
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)


def _arguments(config: NetworkConfig, identity: Identity, control_path: str) -> list[str]:
    options = {
        "listen": f"/unix{control_path}",
        "id": str(identity.path),
        "idleTimeout": _IDLE_TIMEOUT,
        "persistentConnMaxMsgSize": _MAX_MESSAGE_BYTES,
        "connManager": 1,
        "tls": 1,
        "relay": 1,
        "relayTimeLimit": _CIRCUIT_LIFE,
        "relayBufferSize": _CIRCUIT_BUFFER_BYTES,
        "relayMaxCircuits": _CIRCUITS_OF_A_PEER,
        "autonat": 1,
        "autoRelay": 0,  # waits for a verdict of its own, minutes long, before it looks for a relay: see `circuits`
        "natPortMap": int(config.use_port_mapping),
        "b": 0,  # we dial the initial peers ourselves: the daemon would not start without a living one
        "dhtServer" if config.is_listening else "dhtClient": 1,
    }
    if config.is_listening:
        options["hostAddrs"] = ",".join(config.host_maddrs)
    else:
        options["noListenAddrs"] = 1
    announced = [text for text in config.announce_maddrs if direct_endpoint(parse_host_addr(text)) is None]
    if announced:
        options["announceAddrs"] = ",".join(announced)
    return [f"-{name}={value}" for name, value in options.items()]


async def _spawn(arguments: list[str]) -> asyncio.subprocess.Process:
    with as_file(files("hivemind.hivemind_cli") / "p2pd") as program:
        try:
            return await asyncio.create_subprocess_exec(
                str(program),
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise DaemonDied(f"cannot start {program}: {error.strerror}; install hivemind again") from error


async def _wait_ready(process: asyncio.subprocess.Process, tail: deque[bytes], config: NetworkConfig) -> None:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(config.timeouts.startup):
            while not (tail and tail[-1].startswith(_READY)):
                line = await process.stdout.readline()
                if not line:
                    raise _startup_error(tail, config)
                tail.append(line.strip())
    except TimeoutError as error:
        limit = config.timeouts.startup
        raise DaemonDied(f"the libp2p daemon is not up after {limit:g} s; is the machine overloaded?") from error


def _startup_error(tail: Iterable[bytes], config: NetworkConfig) -> Exception:
    text = " ".join(line.decode(errors="replace") for line in tail)[-300:]
    where = ", ".join(config.host_maddrs)
    if "address already in use" in text:
        return AddressInUse(f"cannot listen on {where}: in use by another process; choose another --port")
    if "multiaddr" in text or "cannot assign requested address" in text:
        return AddressInvalid(f"the libp2p daemon cannot use {where} {', '.join(config.announce_maddrs)}: {text}")
    return DaemonDied(f"the libp2p daemon did not start: {text or 'it said nothing'}")


async def _log_output(process: asyncio.subprocess.Process) -> None:
    # Read on for ever: a full pipe would stop the daemon.
    assert process.stdout is not None
    while chunk := await process.stdout.read(4096):
        for line in chunk.decode(errors="replace").splitlines():
            logger.debug("libp2p daemon %d: %s", process.pid, line)


async def _end(process: asyncio.subprocess.Process, p2p: Any, grace: float) -> None:
    control = getattr(getattr(p2p, "_client", None), "control", None)
    tasks = [getattr(control, "_read_task", None), getattr(control, "_write_task", None)]
    tasks += getattr(control, "_handler_tasks", {}).values()
    if p2p is not None:
        await p2p.shutdown()
    try:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
        async with asyncio.timeout(grace):
            await process.wait()
    except TimeoutError:
        logger.warning("libp2p daemon %d does not end; killing it", process.pid)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    # hivemind only cancels its tasks; awaiting them keeps "exception was never retrieved" off the screen.
    await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)


def _check_host_addrs(texts: Iterable[str]) -> None:
    # The daemon binds with SO_REUSEPORT: a second one on the same port would start, and steal half the dials.
    for text in texts:
        endpoint = tcp_endpoint(parse_host_addr(text))
        if endpoint is None:
            continue
        family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(endpoint)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise AddressInUse(f"{text} is in use by another process; choose another --port") from error
                raise AddressInvalid(f"cannot listen on {text}: {error.strerror}; choose another address") from error
