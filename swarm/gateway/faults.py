"""What went wrong, as the OpenAI API tells it: a status, and an object with message, type, code and parameter."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from swarm.errors import (
    BlocksMissing,
    Busy,
    DaemonDied,
    LocalError,
    ModelNotFound,
    PromptTooLong,
    RemoteError,
    SwarmError,
    UnavailableError,
)
from swarm.log import get_logger
from swarm.web.guard import error_body

logger = get_logger(__name__)

RETRY_AFTER = 5.0
"""Seconds after which blocks that were missing may have a server."""

STATUS_LEFT = 499
"""What the metrics call a request whose sender hung up; nobody reads it."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Count = Callable[[web.Request, int], None]


class Refused(LocalError):
    """A request that is not answered.

    Attributes:
        status: Of HTTP.
        kind: What the API calls `type`.
        fault: What the API calls `code`.
        param: The parameter that is to blame.
        retry_after: Seconds after which another try makes sense.
    """

    def __init__(
        self,
        text: str,
        *,
        param: str | None = None,
        fault: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.kind = kind
        self.fault = fault
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, object]:
        """Return the object that tells it."""
        return error_body(str(self), kind=self.kind, code=self.fault, param=self.param)

    def response(self) -> web.Response:
        """Return the answer that tells it."""
        later = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return web.json_response(self.body(), status=self.status, headers=later)


def refusal(error: SwarmError) -> Refused:
    """Return an error of ours as a client of the API is told it."""
    text = str(error)
    match error:
        case Refused():
            return error
        case PromptTooLong():
            return Refused(text, fault="context_length_exceeded")
        case ModelNotFound():
            return Refused(text, status=404, fault="model_not_found", param="model")
        case DaemonDied():  # local, but no fault of the request's; the process is about to end
            return Refused(text, status=503, kind="server_error", fault="unavailable", retry_after=RETRY_AFTER)
        case LocalError():
            return Refused(text, fault="invalid_value")
        case BlocksMissing():
            return Refused(text, status=503, kind="server_error", fault="blocks_missing", retry_after=RETRY_AFTER)
        case Busy():
            return Refused(text, status=503, kind="server_error", fault="busy", retry_after=error.retry_after)
        case UnavailableError():
            return Refused(text, status=503, kind="server_error", fault="unavailable", retry_after=RETRY_AFTER)
        case RemoteError():
            return Refused(text, status=502, kind="server_error", fault="server_failed")
        case _:
            return Refused(text, status=500, kind="server_error", fault="internal_error")


def first_fault(error: Exception) -> Refused:
    """Return what to tell of whatever was raised; a fault of ours is logged, and told without its words."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, SwarmError):
        return refusal(error)
    logger.error("a request ended by a fault of ours", exc_info=error)
    return Refused("a fault of the gateway; its log says more", status=500, kind="server_error", fault="internal_error")


def telling(count: Count) -> Middleware:
    """Return the middleware that turns whatever is raised into an answer; `count` is told each one's status."""

    @web.middleware
    async def tell(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except asyncio.CancelledError:
            count(request, STATUS_LEFT)
            raise
        except web.HTTPException as error:
            if error.status < 400:
                raise
            response = _foreign(error).response()
            response.headers.update({name: error.headers[name] for name in ("Allow",) if name in error.headers})
        except Exception as error:
            response = first_fault(error).response()
        count(request, STATUS_LEFT if request.transport is None else response.status)
        return response

    return tell


def _foreign(error: web.HTTPException) -> Refused:
    """Return what aiohttp refuses by itself in our form."""
    match error:
        case web.HTTPNotFound():
            return Refused("there is no such path here: see docs/gateway.md", status=404, fault="not_found")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return Refused(f"this path takes {allowed} only", status=405, fault="method_not_allowed")
        case web.HTTPRequestEntityTooLarge():
            return Refused("the request is larger than --max-body allows", status=413, fault="request_too_large")
        case _:
            return Refused(error.reason, status=error.status)
