"""The monitor's HTTP face: the page, the JSON API, the event stream, metrics."""

from __future__ import annotations

import asyncio
import math

from aiohttp import web

from swarm.clock import Clock, SystemClock
from swarm.errors import Busy
from swarm.monitor.asking import Answer, Asker
from swarm.monitor.board import Board
from swarm.monitor.gauges import registry_of
from swarm.monitor.history import MAX_POINTS, History
from swarm.monitor.shapes import Json, frame_shape, models_shape, peer_shape, stats_shape
from swarm.monitor.state import Standing
from swarm.types import PeerId
from swarm.web import Keys, add_metrics, add_page, guard
from swarm.web.guard import error_body

MAX_SECONDS = 3660 * 86400
"""The longest history that can be asked for."""

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment shows that the event stream lives."""

SLOW = 10.0
"""Seconds that a reader may take for one event; then its stream is closed, and it may come again."""

STALE = 60.0
"""Seconds without news of the swarm after which the monitor is not healthy."""


def build_app(
    board: Board, history: History, *, keys: Keys, asker: Asker | None = None, clock: Clock | None = None
) -> web.Application:
    """Return the application; without an `asker` servers' engines are not asked."""
    face = Face(board, history, asker, clock or SystemClock())
    app = web.Application(middlewares=[guard(keys)])
    app.router.add_get("/api/v1/state", face.state)
    app.router.add_get("/api/v1/models", face.models)
    app.router.add_get("/api/v1/peers/{peer}", face.peer)
    app.router.add_get("/api/v1/history", face.history)
    app.router.add_get("/api/v1/events", face.events, allow_head=False)
    app.router.add_get("/healthz", face.health)
    add_metrics(app, registry_of(board, clock or SystemClock()))
    add_page(app, "swarm.monitor")

    async def end_streams(_: web.Application) -> None:
        board.close()

    app.on_shutdown.append(end_streams)
    return app


class Face:
    """Answers requests."""

    def __init__(self, board: Board, history: History, asker: Asker | None, clock: Clock) -> None:
        self._board = board
        self._history = history
        self._asker = asker
        self._clock = clock

    async def state(self, _: web.Request) -> web.Response:
        """Everything: totals, models, servers."""
        return web.Response(body=self._board.whole(), content_type="application/json")

    async def models(self, _: web.Request) -> web.Response:
        """The models without their servers."""
        state = self._board.state
        return web.json_response(frame_shape(state) | {"models": models_shape(state)})

    async def peer(self, request: web.Request) -> web.Response:
        """All that is known of one peer, and what its engine says when asked."""
        peer = PeerId(request.match_info["peer"])
        found = [each for model in self._board.state.models for each in model.servers if each.record.peer == peer]
        if not found:
            return _refused(404, "no server with this peer id is in the swarm now")
        answer = Answer(problem="not asked: " + ("it takes no sessions" if self._asker else "this monitor asks nobody"))
        is_alive = any(each.standing in (Standing.SERVING, Standing.LEAVING, Standing.OTHER) for each in found)
        if self._asker is not None and is_alive:
            answer = await self._asker.ask(found[0].record)
        shape: Json = {
            "peer": peer,
            "servers": [peer_shape(each) for each in found],
            "engine": None if answer.stats is None else stats_shape(answer.stats),
            "round_trip": answer.round_trip,
            "problem": answer.problem,
        }
        return web.json_response(shape)

    async def history(self, request: web.Request) -> web.Response:
        """Servers, coverage and throughput of one model over time."""
        try:
            model, seconds, points = _history_query(request)
        except ValueError as error:
            return _refused(400, str(error))
        series = await self._history.read(model, seconds=seconds, points=points, now=self._clock.unix())
        shape: Json = {
            "model": model,
            "step": series.step,
            "columns": ["at", "servers", "blocks", "covered", "per_s", "per_s_min"],
            "rows": [
                [p.at, round(p.servers, 2), p.blocks, p.covered, round(p.per_s, 3), round(p.per_s_min, 3)]
                for p in series.points
            ],
            "problem": self._history.problem,
        }
        return web.json_response(shape)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The state, then each change of it, as server-sent events."""
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Accel-Buffering": "no"}
        try:
            with self._board.reading() as reader:
                response = web.StreamResponse(headers=headers | {"Content-Type": "text/event-stream"})
                await response.prepare(request)
                while (event := await reader.next(KEEP_ALIVE)) is not None:
                    async with asyncio.timeout(SLOW):
                        await response.write(event or b": still here\n\n")
        except Busy as error:
            return _refused(429, str(error), {"Retry-After": f"{error.retry_after:.0f}"})
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()  # what it has not read in all that time is not worth keeping
        return response

    async def health(self, _: web.Request) -> web.Response:
        """Whether the swarm was seen lately; nothing of what was seen."""
        is_fresh = self._clock.unix() - self._board.state.taken_at < STALE
        return web.json_response({"status": "ok" if is_fresh else "stale"}, status=200 if is_fresh else 503)


def _history_query(request: web.Request) -> tuple[str, float, int]:
    given = dict(request.query)
    if unknown := sorted(set(given) - {"model", "seconds", "points"}):
        raise ValueError(f"unknown parameter {unknown[0]!r:.60}; model, seconds and points are known")
    model = given.get("model", "")
    if not 0 < len(model) <= 256:
        raise ValueError("the parameter model is missing, or too long: give a model's name")
    seconds, points = _number(given, "seconds", 3600.0), _number(given, "points", 300.0)
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"seconds: more than 0 and at most {MAX_SECONDS} are possible")
    if not 1 <= points <= MAX_POINTS:
        raise ValueError(f"points: 1 to {MAX_POINTS} are possible")
    return model, seconds, int(points)


def _number(given: dict[str, str], name: str, default: float) -> float:
    try:
        value = float(given.get(name, default))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name}: not a number")
    return value


def _refused(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(error_body(text, kind="invalid_request_error"), status=status, headers=headers)
