"""Server-sent events, as the API streams them: the headers go out with the first one, so that an error before it has
a status of its own.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web


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
            ConnectionError: The reader is gone; who takes nothing is let go by `swarm.web.protocol`.
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
            await self.response.write(text.encode("utf-8", "replace"))
        except ConnectionError:
            self.is_gone = True
            raise

    async def _begin(self) -> None:
        async with self._lock:  # several texts may begin at once
            if not self.has_begun:
                await self.response.prepare(self._request)
                self.has_begun = True
