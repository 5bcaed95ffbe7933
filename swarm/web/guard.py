"""Who may ask what: keys, and no page of another origin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware
from yarl import URL

from swarm.web.keys import Keys, is_loopback

KEY = web.RequestKey("key", str)
"""The name of the key that a request came with; "" where none are set."""

IS_LET_IN = web.RequestKey("is_let_in", bool)
"""Whether a request would be answered on any path; on those that are open to all it may not be."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_OPEN = "/healthz"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def guard(keys: Keys) -> Middleware:
    """Return the middleware that lets only those in who may; it goes first in an application.

    401 without one of `keys`, if any are set, on every path but /healthz; 403 for what a page of another origin sends,
    and, without keys, for a host name that is not of this machine (DNS rebinding).
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = _refusal(request, keys)
        if refused is not None and request.path != _OPEN:
            return refused
        request[IS_LET_IN] = refused is None
        request[KEY] = (keys.find(request.headers.get("Authorization", "")) or "") if keys else ""
        try:
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.extend({name: value for name, value in _HEADERS.items() if name not in error.headers})
            raise
        if not response.prepared:
            for name, value in _HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    return check


def error_body(message: str, *, kind: str, code: str | None = None, param: str | None = None) -> dict[str, object]:
    """Return an error as the OpenAI API writes it: what its clients, and people, can read."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _refusal(request: web.Request, keys: Keys) -> web.Response | None:
    if keys and keys.find(request.headers.get("Authorization", "")) is None:
        body = error_body(
            "no API key, or a wrong one: send the header Authorization: Bearer KEY",
            kind="authentication_error",
            code="invalid_api_key",
        )
        # One scheme alone: browsers do not ask for a password when another one follows in the same line.
        challenge = {"WWW-Authenticate": 'Basic realm="swarm: any user, the API key as password"'}
        return web.json_response(body, status=401, headers=_HEADERS | challenge)
    if reason := _foreign(request, keys):
        body = error_body(reason, kind="permission_error", code="foreign_origin")
        return web.json_response(body, status=403, headers=_HEADERS)
    if "Expect" not in request.headers and any(name.lower() == b"expect" for name, _ in request.raw_headers):
        body = error_body("of Expect only 100-continue is known", kind="invalid_request_error")  # see web/protocol.py
        return web.json_response(body, status=417, headers=_HEADERS)
    return None


def _foreign(request: web.Request, keys: Keys) -> str:
    try:
        name = URL(f"http://{request.host}").host
        is_own = "Origin" not in request.headers or _is_own(URL(request.headers["Origin"]), request.host)
    except ValueError:  # yarl decodes names only when they are asked for
        return "a Host or Origin header that is none"
    if not keys and not is_loopback(name or ""):
        return "without API keys only names of this machine are answered: use http://127.0.0.1"
    return "" if is_own else "requests of other sites' pages are not answered"


def _is_own(origin: URL, host: str) -> bool:
    """Whether a page of `origin` is ours; a proxy may speak TLS for us, so the page's scheme tells the default port."""
    if origin.scheme not in ("http", "https") or not origin.host:
        return False
    own = URL(f"{origin.scheme}://{host}")
    return (origin.host, origin.port) == (own.host, own.port)
