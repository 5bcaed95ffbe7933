"""The whole way from HTTP to hops and back, over hops in memory that fail, wait and fall silent on demand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from swarm.client import Timeouts
from swarm.errors import BlocksMissing, Busy, HopFailed
from swarm.gateway import app
from swarm.gateway.limits import Allowance
from swarm.wire.rows import TRY_BITS
from tests.client.digest_swarm import CONTEXT, DigestSwarm, on_bridge, text_after
from tests.gateway.digest_gateway import digest_gateway, ids, spelt

PROMPT = "Call me Ishmael. Some years ago - never mind how long"
BODY = {"model": "digest", "prompt": PROMPT, "temperature": 0, "max_tokens": 20}
EXPECTED = spelt(text_after(ids(PROMPT), 20))
CHAT = {"model": "digest", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 5}
SECRET = "canary-secret-key"


@pytest.fixture
def swarm() -> Iterator[DigestSwarm]:
    with on_bridge(DigestSwarm()) as swarm:
        yield swarm


async def ask(
    session: aiohttp.ClientSession, body: Any = BODY, path: str = "/v1/completions", **headers: str
) -> tuple[int, Any, Any]:
    async with session.post(path, json=body, headers=headers) as response:
        return response.status, await response.json(), response.headers


async def events(session: aiohttp.ClientSession, body: Any, path: str = "/v1/completions") -> list[Any]:
    async with session.post(path, json={**body, "stream": True}) as response:
        assert response.status == 200 and response.content_type == "text/event-stream"
        lines = [line.decode().removeprefix("data: ").strip() async for line in response.content if line.strip()]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_texts_come_whole_and_streamed(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm) as (session, _):
        status, body, _ = await ask(session)
        assert status == 200 and body["choices"][0]["text"] == EXPECTED
        assert body["usage"] == {"prompt_tokens": 53, "completion_tokens": 20, "total_tokens": 73}
        streamed = await events(session, BODY)
        assert "".join(event["choices"][0]["text"] for event in streamed) == EXPECTED
        assert streamed[-1]["choices"][0]["finish_reason"] == "length" and "usage" not in streamed[0]


async def test_a_chat_is_what_the_template_makes_of_it(swarm: DigestSwarm) -> None:
    said = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    async with digest_gateway(swarm) as (session, _):
        _, body, _ = await ask(session, {**CHAT, "messages": said}, "/v1/chat/completions")
        expected = spelt(text_after(ids("s: be kind\nu: hi\na: "), 5))
        assert body["choices"][0]["message"]["content"] == expected
        status, body, _ = await ask(session, {**CHAT, "messages": said[::-1]}, "/v1/chat/completions")
        assert status == 400 and "system first" in body["error"]["message"]


async def test_several_texts_of_one_prompt_share_its_prefill(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm) as (session, _):
        _, body, _ = await ask(session, {**BODY, "n": 4, "temperature": 1, "seed": 3})
        texts = [choice["text"] for choice in body["choices"]]
        assert len(set(texts)) == 4 and [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
        assert swarm.num_tokens == 53 + 3 * (53 - 48) + 4 * 19, "whole pages of 16 are there already"
        _, again, _ = await ask(session, {**BODY, "n": 4, "temperature": 1, "seed": 3})
        assert [choice["text"] for choice in again["choices"]] == texts


async def test_prompts_and_texts_keep_their_order_and_echo(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm) as (session, _):
        prompts = ["aa", ids("bb"), "cc"]
        asked = {**BODY, "prompt": prompts, "n": 2, "echo": True, "max_tokens": 4}
        _, body, _ = await ask(session, asked)
        expected = [word + spelt(text_after(ids(word), 4)) for word in ("aa", "bb", "cc") for _ in range(2)]
        assert [choice["text"] for choice in body["choices"]] == expected
        pieces: dict[int, str] = dict.fromkeys(range(6), "")
        for event in await events(session, asked):
            pieces[event["choices"][0]["index"]] += event["choices"][0]["text"]
        assert list(pieces.values()) == expected


async def test_who_hangs_up_ends_his_sessions_on_all_hops(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm) as (session, gateway):
        for how in ({"stream": True}, {"stream": True, "n": 3, "temperature": 1}, {}):
            request = asyncio.create_task(ask(session, {**BODY, "max_tokens": 200, **how}))
            await wait_until(lambda: swarm.num_open > 0)
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
            await wait_until(lambda: swarm.num_open == 0 and gateway.house.admission.num_inside == 0)
        swarm.is_silent = True
        request = asyncio.create_task(ask(session))
        await wait_until(lambda: swarm.num_open > 0)
        request.cancel()
        await wait_until(lambda: swarm.num_open == 0 and gateway.house.admission.num_running == 0)
        assert 'status="499"' in await metrics(session)


async def test_without_keys_a_foreign_page_learns_nothing_from_healthz(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm) as (session, _):
        for headers, told in (
            ({}, {"status": "ok", "models": ["digest: ready"]}),
            ({"Host": "rebound.example.org"}, {"status": "ok"}),
            ({"Origin": "http://example.org"}, {"status": "ok"}),
        ):
            async with session.get("/healthz", headers=headers) as response:
                assert response.status == 200 and await response.json() == told


async def test_blocks_that_nobody_serves_are_named(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm) as (session, gateway):
        swarm.missing = BlocksMissing("nobody serves blocks 2:4 of digest")
        for body in (BODY, {**BODY, "stream": True}):
            status, answer, headers = await ask(session, body)
            assert status == 503 and "2:4" in answer["error"]["message"] and int(headers["Retry-After"]) > 0
        (served,) = gateway.models
        await served.look()
        async with session.get("/healthz") as response:
            assert response.status == 503 and "nobody serves blocks 0:4" in await response.text()
        async with session.get("/v1/models/digest") as response:
            state = (await response.json())["swarm"]
            assert state["state"] == "incomplete" and state["missing"] == [{"start": 0, "end": 4}]


async def test_a_swarm_that_stays_busy_says_when_to_come_again() -> None:
    with on_bridge(DigestSwarm(timeouts=Timeouts(busy=0.1))) as swarm:
        async with digest_gateway(swarm) as (session, _):
            swarm.fails = lambda step: Busy("no pages", retry_after=3.2)
            status, _, headers = await ask(session)
            assert status == 503 and headers["Retry-After"] == "4"


async def test_a_fault_in_the_middle_is_told_by_an_event(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm) as (session, _):
        swarm.fails = lambda step: HopFailed("out of paper") if step.step >> TRY_BITS == 15 else None
        streamed = await events(session, BODY)
        assert "out of paper" in streamed[-1]["error"]["message"]
        assert "".join(event["choices"][0]["text"] for event in streamed[:-1]) == EXPECTED[:8]
        assert (await ask(session))[0] == 502


async def test_a_fault_of_ours_is_told_without_its_words(swarm: DigestSwarm, caplog: pytest.LogCaptureFixture) -> None:
    async with digest_gateway(swarm, keys=(SECRET,)) as (session, gateway):
        gateway.models.find = lambda name: 1 / 0  # type: ignore[assignment, method-assign]
        status, body, _ = await ask(session, Authorization=f"Bearer {SECRET}")
        assert status == 500 and "division" not in str(body)
        assert "division" in caplog.text and SECRET not in caplog.text


async def test_every_path_but_healthz_wants_the_key(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm, keys=(SECRET, "another-" + SECRET)) as (session, _):
        answer_id = (await ask(session, Authorization=f"Bearer {SECRET}"))[1]["id"]
        for headers in ({}, {"Authorization": f"Bearer {SECRET}"}):
            async with session.get("/healthz", headers=headers) as response:
                told = await response.json()
                assert response.status == 200 and ("models" in told) == bool(headers), "details are for who has a key"
        for method, path in await paths_of(session, answer_id):
            for headers in ({}, {"Authorization": "Bearer canary"}):
                async with session.request(method, path, headers=headers) as response:
                    assert response.status == 401, path
                    assert (await response.json())["error"]["code"] == "invalid_api_key"
        for key, status in ((SECRET, 200), ("another-" + SECRET, 404)):
            async with session.get(
                f"/api/v1/route/{answer_id}", headers={"Authorization": f"Bearer {key}"}
            ) as response:
                assert response.status == status, "an answer's route is for whoever asked for it"


async def paths_of(session: aiohttp.ClientSession, answer_id: str) -> list[tuple[str, str]]:
    """Return what the application answers, and what it does not."""
    paths = [("GET", "/v1/models"), ("GET", "/v1/models/digest"), ("GET", f"/api/v1/route/{answer_id}")]
    return [
        *paths,
        ("GET", "/metrics"),
        ("GET", "/nowhere"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"),
    ]


async def test_the_list_of_paths_above_is_whole(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm) as (_, gateway):
        from swarm.gateway.app import build_app
        from swarm.web import Keys

        known = {resource.canonical for resource in build_app(gateway, Keys(), max_body=1).router.resources()}
    pages = {path for path in known if path == "/" or path.startswith("/static/")}
    api = {"/healthz", "/v1/models", "/v1/models/{name}", "/api/v1/route/{answer_id}", "/metrics"}
    assert known - pages == api | {"/v1/completions", "/v1/chat/completions"}


async def test_limits_are_by_key_and_say_when_to_come_again(swarm: DigestSwarm) -> None:
    keys = (SECRET, "another-" + SECRET)
    async with digest_gateway(swarm, keys=keys, allowance=Allowance(requests_per_minute=2)) as (session, _):
        found = [await ask(session, Authorization=f"Bearer {key}") for key in (SECRET, SECRET, SECRET, keys[1])]
        assert [status for status, _, _ in found] == [200, 200, 429, 200]
        assert int(found[2][2]["Retry-After"]) > 0 and found[2][1]["error"]["code"] == "rate_limit_exceeded"


async def test_quotas_count_prompts_and_answers(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm, allowance=Allowance(tokens_per_day=53 + 20 + 10)) as (session, _):
        assert (await ask(session))[0] == 200
        status, body, _ = await ask(session)
        assert status == 429 and body["error"]["code"] == "insufficient_quota"
        assert (await ask(session, {**BODY, "prompt": "short"}))[0] == 200


async def test_more_than_fit_are_sent_away(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm, max_running=2, max_waiting=3) as (session, _):
        found = await asyncio.gather(*(ask(session, {**BODY, "prompt": PROMPT[index:]}) for index in range(9)))
        by_status = [status for status, _, _ in found]
        assert set(by_status) == {200, 503} and by_status.count(200) >= 5
        for index, (status, body, headers) in enumerate(found):
            if status == 200:
                assert body["choices"][0]["text"] == spelt(text_after(ids(PROMPT[index:]), 20))
            else:
                assert body["error"]["code"] == "overloaded" and int(headers["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b"x" * 100_001, 413, "request_too_large"),
        ({**BODY, "model": "other"}, 404, "model_not_found"),
        ({**BODY, "prompt": "x" * (CONTEXT + 1)}, 400, "context_length_exceeded"),
        ({**BODY, "prompt": "x" * 50_000}, 400, "context_length_exceeded"),
        ({**BODY, "max_tokens": CONTEXT}, 400, "context_length_exceeded"),
        ({**BODY, "prompt": ""}, 400, "invalid_value"),
        ({**BODY, "prompt": [500]}, 400, "invalid_value"),
        ({**BODY, "logit_bias": {"97": 1}}, 400, "invalid_value"),
        ({**BODY, "tools": [{}]}, 400, "unknown_parameter"),
    ],
)
async def test_what_is_wrong_has_its_status_and_code(swarm: DigestSwarm, body: Any, status: int, code: str) -> None:
    async with digest_gateway(swarm) as (session, _):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with session.post("/v1/completions", data=data) as response:
            assert response.status == status and (await response.json())["error"]["code"] == code


async def test_a_body_that_does_not_come_is_given_up(swarm: DigestSwarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_TIMEOUT", 0.2)

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b" "
            await asyncio.sleep(0.05)

    async with digest_gateway(swarm) as (session, _):
        began = time.monotonic()
        async with session.post("/v1/completions", data=drip()) as response:
            assert response.status == 408 and (await response.json())["error"]["code"] == "request_timeout"
        assert time.monotonic() - began < 5


async def test_other_methods_and_paths_are_errors_of_the_api_too(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm) as (session, _):
        for method, path, status in (("GET", "/v1/completions", 405), ("POST", "/v2", 404)):
            async with session.request(method, path) as response:
                assert response.status == status and "message" in (await response.json())["error"]


async def test_the_route_of_an_answer_is_known_while_it_runs_and_afterwards(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm) as (session, gateway):
        swarm.fails = lambda step: Busy("later", retry_after=0.3) if step.step >> TRY_BITS == 15 else None
        streaming = asyncio.create_task(events(session, {**BODY, "max_tokens": 24}))
        await wait_until(lambda: bool(gateway.recent._answers))
        (answer_id,) = gateway.recent._answers

        async def route() -> Any:
            async with session.get(f"/api/v1/route/{answer_id}") as response:
                return await response.json()

        while not (running := await route())["hops"]:
            await asyncio.sleep(0.005)
        assert running["state"] == "running"
        assert [(hop["peer"], hop["start"], hop["end"]) for hop in running["hops"]] == [("hop0", 0, 1), ("hop1", 1, 2)]
        await streaming
        done = await route()
        assert done["state"] == "done" and done["tokens"] == 24 and done["tokens_per_s"] > 0 and done["failovers"] == 0
        parts = sum(hop[f"{name}_ms"] for hop in done["hops"] for name in ("network", "queue", "compute", "handling"))
        assert done["step_ms"] == pytest.approx(parts + done["back_ms"], abs=0.05)


async def test_metrics_count_requests_tokens_and_times(swarm: DigestSwarm) -> None:
    async with digest_gateway(swarm) as (session, _):
        await ask(session)
        await ask(session, {**BODY, "model": "x" * 50})
        text = await metrics(session)
        for line in (
            'swarm_gateway_requests_total{model="digest",status="200"} 1.0',
            'swarm_gateway_requests_total{model="",status="404"} 1.0',
            'swarm_gateway_prompt_tokens_total{model="digest"} 53.0',
            'swarm_gateway_answer_tokens_total{model="digest"} 20.0',
            'swarm_gateway_first_token_seconds_count{model="digest"} 1.0',
            'swarm_gateway_failovers_total{model="digest"} 0.0',
            "swarm_gateway_running 0.0",
        ):
            assert line in text, line
        assert "xxxxx" not in text


async def metrics(session: aiohttp.ClientSession) -> str:
    async with session.get("/metrics") as response:
        assert response.status == 200
        return await response.text()


async def wait_until(is_so: Any) -> None:
    for _ in range(600):
        if is_so():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come")
