"""A server's face, put together: metrics and status lines around its life, the `ready` line, and what follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from swarm.directory import Directory
from swarm.log import get_logger
from swarm.server.config import ServerConfig
from swarm.server.face.console import ready_texts
from swarm.server.face.status_line import StatusLine
from swarm.server.server import Server

logger = get_logger(__name__)


class Face:
    """What one server shows; `around` goes around its life, `ready` is called when clients can come."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._url = ""

    @asynccontextmanager
    async def around(self, server: Server, directory: Directory) -> AsyncIterator[None]:
        """Show `server` until the block is left.

        Raises:
            UsageError, AddressInUse, AddressInvalid: `--metrics-port` and what belongs to it cannot be had.
        """
        async with AsyncExitStack() as stack:
            if self._config.metrics_port is not None:
                from swarm.server.face.metrics import metrics  # loads aiohttp, which most servers do without

                self._url = await stack.enter_async_context(metrics(self._config, server, directory))
                logger.info("metrics at %s/metrics", self._url)
            lines = asyncio.create_task(StatusLine(server).run())
            lines.add_done_callback(_complain)
            stack.callback(lines.cancel)
            yield

    def ready(self, server: Server) -> None:
        """Print the addresses and the `ready` line, and say what the owner can do with them."""
        best, *others = server.addrs
        for addr in others:
            print(f"addr={addr}")
        record = server.record()
        metrics = f" metrics={self._url}" if self._url else ""
        print(f"ready peer={record.peer} blocks={record.span} model={record.model} addr={best}{metrics}", flush=True)
        for text in ready_texts(record, best):
            logger.info("%s", text)


def _complain(lines: asyncio.Task[None]) -> None:
    if not lines.cancelled() and (error := lines.exception()) is not None:
        logger.error("no more status lines: %s", error, exc_info=error)
