"""Pages: package data, sent as it is, that loads nothing from anywhere else."""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable
from hashlib import sha256
from importlib import resources

from aiohttp import web

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the browser itself enforces: no inline script, no foreign asset, no foreign request."""


def add_page(app: web.Application, package: str) -> None:
    """Serve the files of `package`'s folder `static`: index.html at /, the others at /static/NAME.

    The files are read once; there is no path in a request that could lead elsewhere.
    """
    for file in resources.files(package).joinpath("static").iterdir():
        if file.is_file():
            path = "/" if file.name == "index.html" else f"/static/{file.name}"
            app.router.add_get(path, _sender(file.name, file.read_bytes()))


def _sender(name: str, body: bytes) -> Callable[[web.Request], Awaitable[web.Response]]:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    tag = sha256(body).hexdigest()[:16]
    headers = {"Content-Security-Policy": _POLICY, "ETag": f'"{tag}"', "Cache-Control": "no-cache"}

    async def send(request: web.Request) -> web.Response:
        if any(etag.value == tag for etag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        charset = "utf-8" if kind.startswith("text/") or kind.endswith(("javascript", "svg+xml")) else None
        return web.Response(body=body, content_type=kind, charset=charset, headers=headers)

    return send
