"""Listening: from the first request that is answered to the last one that is let go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from swarm.errors import AddressInUse, AddressInvalid
from swarm.web.protocol import GuardedRunner

SHUTDOWN = 2.0
"""Seconds that requests under way get at the end; event streams never end by themselves."""


@asynccontextmanager
async def serving(app: web.Application, *, host: str, port: int) -> AsyncIterator[str]:
    """Answer requests until the block is left; yields the URL, with the port found if `port` is 0.

    The handler of whoever hangs up is cancelled.

    Raises:
        AddressInUse: Another process listens there.
        AddressInvalid: This machine has no such address, or the port is not ours to take.
    """
    runner = GuardedRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN,
        handler_cancellation=True,
        auto_decompress=False,  # what is packed wrongly would raise wherever the body is read, key or no key
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise _told(error, host, port) from error
        bound = runner.addresses[0][1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}"
    finally:
        await runner.cleanup()


def _told(error: OSError, host: str, port: int) -> AddressInUse | AddressInvalid:
    if "in use" in str(error):
        return AddressInUse(f"{host} port {port} is in use by another process; choose another --port")
    return AddressInvalid(f"cannot listen on {host} port {port}: {error.strerror or error}; choose another")
