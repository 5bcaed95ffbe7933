"""A process's face for its operator: /metrics and /healthz, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from prometheus_client import Metric

from swarm.errors import UsageError
from swarm.web.guard import guard
from swarm.web.keys import Keys, is_loopback
from swarm.web.metrics import add_metrics
from swarm.web.readings import registry_of
from swarm.web.serving import serving

Health = Callable[[], tuple[bool, str]]
"""Whether the process does its work, and in a word what it is at."""


@asynccontextmanager
async def operators_face(
    read: Callable[[], Iterable[Metric]], health: Health, *, host: str, port: int, key_file: Path | None = None
) -> AsyncIterator[str]:
    """Answer /metrics with what `read` returns, and /healthz with 200 or 503, until the block is left; yields the URL.

    Args:
        port: 0 is any free one.
        key_file: Holds keys, one a line; whoever asks for /metrics needs one.

    Raises:
        UsageError: `host` can be reached from other machines, and there are no keys; or they cannot be read.
        AddressInUse, AddressInvalid: As `serving`.
    """
    keys = Keys.read((), key_file)
    if not keys and not is_loopback(host):
        raise UsageError(f"--metrics-host {host} lets other machines in: give --metrics-key-file FILE too")
    app = web.Application(middlewares=[guard(keys)])
    add_metrics(app, registry_of(read))

    async def healthz(_: web.Request) -> web.Response:
        is_well, state = health()
        body = {"status": "ok" if is_well else "failing", "state": state}
        return web.json_response(body, status=200 if is_well else 503)

    app.router.add_get("/healthz", healthz)
    async with serving(app, host=host, port=port) as url:
        yield url
