"""What aiohttp leaves open: how many may be connected, and that no log repeats what is no HTTP, key and all."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from swarm.log import get_logger
from swarm.web.guard import error_body

logger = get_logger(__name__)

MAX_CONNECTIONS = 512
"""Each is a file of the process, of which systems allow 1,024 by default."""


class GuardedRunner(web.AppRunner):
    """Runs an application; no part of a malformed request goes into logs or answers.

    When `MAX_CONNECTIONS` are open, a new one takes the place of the oldest that asks nothing, or is closed itself.
    """

    __slots__ = ()

    @property
    def server(self) -> Any:
        """What makes a protocol for each connection."""
        make = super().server
        if make is None:
            return None

        def protocol() -> web.RequestHandler:
            handler = make()
            handler.__class__ = _Guarded  # aiohttp has no parameter for it
            return handler

        return protocol


class _Guarded(web.RequestHandler):
    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._manager is not None
        others = [other for other in self._manager.connections if not other._force_close]
        if len(others) > MAX_CONNECTIONS:
            # Who is asking something has no waiter; we come last.
            idle = next((other for other in others if other._waiter is not None), self)
            logger.debug("%d connections are open: one that is idle is closed", MAX_CONNECTIONS)
            idle.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        logger.debug("%s: a request that is no HTTP: %s", request.remote, type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        body = error_body("this is no HTTP request", kind="invalid_request_error", code="bad_request")
        response = web.json_response(body, status=status)
        response.force_close()
        return response
