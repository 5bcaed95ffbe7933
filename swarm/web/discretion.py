"""What is no HTTP is answered, and not repeated: aiohttp would log the line that it could not read, key and all."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from swarm.log import get_logger
from swarm.web.guard import error_body

logger = get_logger(__name__)


class DiscreetRunner(web.AppRunner):
    """Runs an application; no part of a malformed request goes into logs or answers."""

    __slots__ = ()

    @property
    def server(self) -> Any:
        """What makes a protocol for each connection."""
        make = super().server
        if make is None:
            return None

        def protocol() -> web.RequestHandler:
            handler = make()
            handler.__class__ = _Discreet  # aiohttp has no parameter for it
            return handler

        return protocol


class _Discreet(web.RequestHandler):
    __slots__ = ()

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
