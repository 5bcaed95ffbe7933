"""TCP sockets without a transport, for those who bring their own: dialled, and taken from a port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from swarm.log import get_logger
from swarm.network.addresses import plain_host

_BACKLOG = 1024
"""Connections that may wait while the loop is busy."""

_PAUSE = 1.0
"""Seconds until connections are taken again, once no file descriptor was left."""

logger = get_logger(__name__)


async def dial(host: str, port: int) -> socket.socket:
    """Return a socket connected to the first address of `host` that answers.

    Raises:
        OSError: None does; it names the last one's reason.

    Cancelled: nothing stays open.
    """
    loop = asyncio.get_running_loop()
    failure = OSError(f"{host}:{port}: no address")
    for family, *_, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = OSError(f"{host}:{port}: {error.strerror or error}")
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def remote_host(sock: socket.socket) -> str | None:
    """Return the IP address that the other side dialled from, None if it is gone already."""
    try:
        return plain_host(sock.getpeername()[0])
    except (OSError, ValueError):
        return None


def tune(sock: socket.socket) -> None:
    """Let a TCP socket send at once, and keep what it knows of the line.

    The usual congestion controls begin anew after a fraction of a second of silence, so that each prompt spends
    several round trips per hop on finding out what the line bears; and they take each lost packet for a full line.
    BBR does neither (docs/wan.md has the numbers). Where the system has it not, or not for us, its default works too.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_CONGESTION"):
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")


class Doors:
    """Listening sockets; `enter` is called with each connection."""

    def __init__(self, enter: Callable[[socket.socket], None]) -> None:
        self._enter = enter
        self._loop = asyncio.get_running_loop()
        self._doors: list[socket.socket] = []

    async def open(self, host: str, port: int) -> int:
        """Listen at all addresses of `host`, on one port, which is returned; any free one for 0.

        Raises:
            OSError: The port is taken, or this machine has no such address.
        """
        for family, *_, address in await self._loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            door = socket.create_server((address[0], port), family=family, backlog=_BACKLOG)
            door.setblocking(False)
            self._doors.append(door)
            self._loop.add_reader(door, self._on_waiting, door)
            port = port or int(door.getsockname()[1])
        return port

    def close(self) -> None:
        """Take no more connections."""
        for door in self._doors:
            self._loop.remove_reader(door)
            door.close()
        self._doors.clear()

    def _on_waiting(self, door: socket.socket) -> None:
        for _ in range(_BACKLOG):
            try:
                sock, _ = door.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("no connection can be taken for %.0f s: %s", _PAUSE, error)
                self._loop.remove_reader(door)
                self._loop.call_later(_PAUSE, self._open_again, door)
                return
            self._enter(sock)

    def _open_again(self, door: socket.socket) -> None:
        if door in self._doors:
            self._loop.add_reader(door, self._on_waiting, door)
