"""Server-sent events, as the API streams them: the headers go out with the first one, so that an error before it has
a status of its own.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

WRITE_TIMEOUT = 60.0
"""Seconds for a reader who takes nothing; then he is let go."""


class Events:
    """The events of one answer.

    Attributes:
        response: What the events are part of.
        has_begun: Whether the headers are out.
        is_gone: Whether the reader is.
    """

    def __init__(self, request: web.Request) -> None:
        self.has_begun = False
        self.is_gone = False
        self._request = request
        self.response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "X-Accel-Buffering": "no",  # proxies such as nginx would collect events otherwise
            }
        )
        self._lock = asyncio.Lock()

    async def send(self, *bodies: dict[str, Any]) -> None:
        """Send one event for each body, all in one piece.

        Raises:
            ConnectionError: The reader is gone, or has taken nothing for long.
        """
        text = "".join(f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n" for body in bodies)
        await self._write(text)

    async def end(self) -> web.StreamResponse:
        """Say that it was all."""
        await self._write("data: [DONE]\n\n")
        return self.response

    async def _write(self, text: str) -> None:
        try:
            if not self.has_begun:
                await self._begin()
            async with asyncio.timeout(WRITE_TIMEOUT):
                await self.response.write(text.encode("utf-8", "replace"))
        except (ConnectionError, TimeoutError) as error:
            self.is_gone = True
            raise ConnectionResetError("the reader is gone, or takes nothing") from error

    async def _begin(self) -> None:
        async with self._lock:  # several texts may begin at once
            if not self.has_begun:
                await self.response.prepare(self._request)
                self.has_begun = True
