"""What aiohttp leaves open: how many may be connected, how long one may take nothing of what is sent, and that no log
repeats what is no HTTP, key and all.

A connection is a file of the process until all that was written to it is taken, even when its handler has ended. So
whoever takes nothing is let go here, for all faces alike: nobody needs a key to fill the room.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError

from swarm.log import get_logger
from swarm.web.guard import error_body

logger = get_logger(__name__)

MAX_CONNECTIONS = 512
"""Each is a file of the process, of which systems allow 1,024 by default."""

STALL = 60.0
"""Seconds in which a reader must take something of what waits for it."""

LEAST = 64 * 1024
"""Bytes that are something: as many may wait before writers do, so that slow readers of long answers have more time."""


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
            # As the server itself would make it: aiohttp has no parameter for the class.
            return _Guarded(make, loop=asyncio.get_running_loop(), **make._kwargs)

        return protocol


class _Guarded(web.RequestHandler):
    __slots__ = ("_stalling",)

    def __init__(self, manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._stalling: asyncio.TimerHandle | None = None
        make = self._request_factory
        assert make is not None
        self._request_factory = lambda message, *rest: make(_unexpecting(message), *rest)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._manager is not None
        others = [other for other in self._manager.connections if not other._force_close]
        if len(others) > MAX_CONNECTIONS:
            # Who is asking something has no waiter; we come last.
            idle = next((other for other in others if other._waiter is not None), self)
            logger.debug("%d connections are open: one that is idle is closed", MAX_CONNECTIONS)
            held = idle.transport
            idle.force_close()
            if held is not None:
                held.abort()  # closing alone would wait for it to take what is written already

    async def start(self) -> None:
        """Answer requests until the end; a reader who has not taken all by then has a while for it, but no more."""
        transport = self.transport
        try:
            await super().start()
        finally:
            if transport is not None and transport.get_write_buffer_size():
                self._loop.call_later(0 if self._force_close else STALL, transport.abort)

    def pause_writing(self) -> None:
        """Begin to watch a reader: much waits for it."""
        super().pause_writing()
        if self.transport is not None:
            self._watch(self.transport)

    def resume_writing(self) -> None:
        """Watch no more: it has taken nearly all."""
        super().resume_writing()
        self._watch(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Watch no more."""
        self._watch(None)
        super().connection_lost(exc)

    def _watch(self, transport: asyncio.Transport | None) -> None:
        if self._stalling is not None:
            self._stalling.cancel()
        self._stalling = None
        if transport is not None:
            waiting = transport.get_write_buffer_size()
            self._stalling = self._loop.call_later(STALL, self._judge, transport, waiting)

    def _judge(self, transport: asyncio.Transport, before: int) -> None:
        if before - transport.get_write_buffer_size() >= LEAST:
            self._watch(transport)
            return
        logger.debug("a reader took next to nothing for %.0f s: it is let go", STALL)
        transport.abort()

    def log_exception(self, *args: Any, **words: Any) -> None:
        """Log a fault of ours; a body that is none is its sender's, whom nobody has asked for a key yet."""
        if isinstance(words.get("exc_info"), _TO_BLAME):
            logger.debug("a request's body is none: %s", type(words["exc_info"]).__name__)
        else:
            super().log_exception(*args, **words)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what went wrong: what is no HTTP without repeating it."""
        if not isinstance(exc, _TO_BLAME):
            return super().handle_error(request, status, exc, message)
        logger.debug("%s: a request that is no HTTP: %s", request.remote, type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        body = error_body("this is no HTTP request", kind="invalid_request_error", code="bad_request")
        response = web.json_response(body, status=400)
        response.force_close()
        return response


_TO_BLAME = (HttpProcessingError, web.RequestPayloadError)
"""What aiohttp raises where a sender broke off, or sent what is no HTTP."""


def _unexpecting(message: RawRequestMessage) -> RawRequestMessage:
    """Return a request without an expectation that nobody knows: aiohttp would refuse it before anybody asks for a key.

    `guard` does so afterwards, by the headers as they came (`raw_headers`).
    """
    if message.headers.get("Expect", "100-continue").lower() == "100-continue":
        return message
    headers = message.headers.copy()
    headers.popall("Expect")
    return message._replace(headers=type(message.headers)(headers))
