"""The paths: what is asked at each, and how it is answered."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from swarm.gateway.answering.shapes import ChatShape, CompletionShape, Shape, Text
from swarm.gateway.answering.streams import Beginning, chat_beginning, completion_beginnings, open_stream
from swarm.gateway.answering.writing import Piece
from swarm.gateway.asking import Asked, Chat, Completion, read_chat, read_completion
from swarm.gateway.asking.fields import read_object
from swarm.gateway.completing import Completing, House
from swarm.gateway.events import Events
from swarm.gateway.faults import Refused, first_fault, telling
from swarm.gateway.models import Models, Served
from swarm.gateway.recent import Answer, Recent
from swarm.web import Keys, add_metrics, add_page, guard
from swarm.web.guard import IS_LET_IN, KEY

MODEL = web.RequestKey("model", str)
"""The name of the model that a request is about, once it is found."""

BODY_TIMEOUT = 60.0
"""Seconds that a request's body may take to come."""


class Gateway:
    """Answers requests; `build_app` gives it its paths."""

    def __init__(self, models: Models, house: House) -> None:
        self.models = models
        self.house = house
        self.recent = Recent()

    async def health(self, request: web.Request) -> web.Response:
        """/healthz: whether any model can answer; who watches over processes has no key, and is told no more."""
        is_well = any(served.is_ready for served in self.models)
        body: dict[str, Any] = {"status": "ok" if is_well else "unavailable"}
        if request[IS_LET_IN]:
            body["models"] = [each.state_text() for each in self.models]
        return web.json_response(body, status=200 if is_well else 503)

    async def list_models(self, _: web.Request) -> web.Response:
        """/v1/models."""
        return web.json_response({"object": "list", "data": [_model_body(served) for served in self.models]})

    async def one_model(self, request: web.Request) -> web.Response:
        """/v1/models/NAME."""
        return web.json_response(_model_body(self.models.find(request.match_info["name"])))

    async def route(self, request: web.Request) -> web.Response:
        """/api/v1/route/ID: which way an answer goes; for whoever sent its request."""
        answer = self.recent.find(request.match_info["answer_id"], request[KEY])
        if answer is None:
            raise Refused("no such answer, or it is too long ago", status=404, fault="not_found")
        return web.json_response(await answer.route())

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """/v1/chat/completions."""
        chat = read_chat(await self._body(request))
        served = self._find(request, chat.asked)

        def begin() -> tuple[Beginning, ...]:
            return (chat_beginning(chat, served.tokenizer, served.model.context_length),)

        return await self._answer(request, served, chat, begin, ChatShape)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """/v1/completions."""
        completion = read_completion(await self._body(request))
        served = self._find(request, completion.asked)
        begin = partial(completion_beginnings, completion, served.tokenizer, served.model.context_length)
        return await self._answer(request, served, completion, begin, CompletionShape)

    def count(self, request: web.Request, status: int) -> None:
        """Note an answer for the metrics."""
        if request.method == "POST":
            self.house.metrics.requests.labels(request.get(MODEL, ""), str(status)).inc()

    async def _body(self, request: web.Request) -> dict[str, object]:
        self.house.limits.count_request(request[KEY])
        if (encoding := request.headers.get("Content-Encoding", "identity")).lower() != "identity":
            text = f"a body with Content-Encoding {encoding[:20]!r} is not unpacked: send it plain"
            raise Refused(text, status=415, fault="unsupported_encoding")
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                body = await request.read()
        except TimeoutError:
            text = f"the body did not come within {BODY_TIMEOUT:.0f} s"
            raise Refused(text, status=408, fault="request_timeout") from None
        except (web.RequestPayloadError, HttpProcessingError) as error:
            raise Refused("the body breaks off, or its chunks are none", fault="bad_request") from error
        return read_object(body)

    def _find(self, request: web.Request, asked: Asked) -> Served:
        served = self.models.find(asked.model)
        request[MODEL] = served.name
        return served

    async def _answer(
        self, request: web.Request, served: Served, what: Chat | Completion, begin: Any, kind: type[Shape]
    ) -> web.StreamResponse:
        began, asked = time.monotonic(), what.asked
        num_prompts = len(what.prompts) if isinstance(what, Completion) else 1
        with self.house.admission.enter(num_prompts * asked.num_texts) as party:
            beginnings = await served.prepare(begin)
            streams = await served.prepare(
                lambda: [
                    open_stream(served.model, beginning, asked, which)
                    for beginning in beginnings
                    for which in range(asked.num_texts)
                ]
            )
            # After all that can be refused; they compute nothing before they are read.
            num_tokens = sum(len(each.tokens) for each in beginnings)
            self.house.limits.admit_tokens(request[KEY], num_tokens)
            self.house.metrics.prompt_tokens.labels(served.name).inc(num_tokens)
            tells = asked.num_top is not None
            shape = kind(served.name, served.model.fingerprint, served.alphabet, tells_likelihoods=tells)
            answer = Answer(shape.answer_id, request[KEY], served, streams)
            self.recent.add(answer)
            completing = Completing(self.house, party, asked, answer, beginnings, began)
            if asked.is_streamed:
                return await _stream(request, completing, shape, asked)
            return await _whole(completing, shape, len(streams))


def build_app(gateway: Gateway, keys: Keys, *, max_body: int) -> web.Application:
    """Return the application: keys and foreign origins first, then errors in the API's form, then the paths."""
    app = web.Application(middlewares=[guard(keys), telling(gateway.count)], client_max_size=max_body)
    app.router.add_get("/healthz", gateway.health)
    app.router.add_get("/v1/models", gateway.list_models)
    app.router.add_get("/v1/models/{name:.+}", gateway.one_model)
    app.router.add_post("/v1/chat/completions", gateway.chat)
    app.router.add_post("/v1/completions", gateway.complete)
    app.router.add_get("/api/v1/route/{answer_id}", gateway.route)
    add_page(app, "swarm.gateway")
    add_metrics(app, gateway.house.metrics.registry)
    return app


async def _whole(completing: Completing, shape: Shape, num_texts: int) -> web.Response:
    texts = [Text(completing.beginning(index).text) for index in range(num_texts)]

    async def put(index: int, piece: Piece) -> None:
        texts[index].add(piece)

    await completing.write(put)
    offsets = [len(completing.beginning(index).text) for index in range(num_texts)]
    assert not any(offsets) or not shape.tells_likelihoods, "an echoed prompt has no likelihoods"
    return web.json_response(shape.answer(texts, completing.usage()))


async def _stream(request: web.Request, completing: Completing, shape: Shape, asked: Asked) -> web.StreamResponse:
    """Send events; what goes wrong before the first one is told by the status, later by an event."""
    events, begun = Events(request), set[int]()

    async def put(index: int, piece: Piece) -> None:
        echoed = completing.beginning(index).text
        choices = [shape.next(index, piece, len(echoed))]
        if index not in begun:
            begun.add(index)
            first = shape.first(index, echoed)
            choices = [*([first] if first is not None else []), *choices]
        await events.send(*(shape.chunk([choice], tells_usage=asked.tells_usage) for choice in choices))

    try:
        try:
            await completing.write(put)
        except Exception as error:
            if events.is_gone or not events.has_begun:
                raise
            await events.send(first_fault(error).body())
        else:
            if asked.tells_usage:
                await events.send(shape.chunk([], tells_usage=True, usage=completing.usage()))
        return await events.end()
    except Exception:
        if not events.is_gone:
            raise
        return events.response  # at whatever point the reader left: no fault of ours


def _model_body(served: Served) -> dict[str, Any]:
    missing = served.missing
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "swarm",
        "swarm": {
            "num_blocks": served.num_blocks,
            "servers": len(served.view.records),
            "state": "ready" if served.is_ready else "incomplete",
            "missing": [{"start": span.start, "end": span.end} for span in missing],
            "context_length": served.model.context_length,
            "fingerprint": served.model.fingerprint,
            "trouble": served.trouble,
        },
    }
