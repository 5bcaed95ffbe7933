"""Readers who leave at the wrong moment, and bodies that are none: no fault of the gateway's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from swarm.errors import HopFailed
from swarm.wire.rows import TRY_BITS
from tests.client.digest_swarm import DigestSwarm, on_bridge
from tests.gateway.digest_gateway import digest_gateway
from tests.gateway.test_app import BODY, metrics, wait_until

STREAM = {**BODY, "stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
def swarm() -> Iterator[DigestSwarm]:
    with on_bridge(DigestSwarm()) as swarm:
        yield swarm


@pytest.mark.parametrize("moment", [b"[DONE]", b'"usage":{', b'"error":'])
async def test_a_reader_who_leaves_at_the_end_is_no_fault_of_ours(
    swarm: DigestSwarm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, moment: bytes
) -> None:
    write = web.StreamResponse.write

    async def lose(self: web.StreamResponse, data: Any) -> None:
        if moment in bytes(data):
            assert self._req is not None
            self._req.protocol.force_close()  # the connection is lost just now; the handler is not told yet
        await write(self, data)

    monkeypatch.setattr(web.StreamResponse, "write", lose)
    if moment == b'"error":':
        swarm.fails = lambda step: HopFailed("out of paper") if step.step >> TRY_BITS == 15 else None
    async with digest_gateway(swarm) as (session, gateway):
        with pytest.raises(aiohttp.ClientPayloadError):
            async with session.post("/v1/completions", json=STREAM) as response:
                await response.read()
        await wait_until(lambda: gateway.house.admission.num_inside == 0)
        await asyncio.sleep(0.05)
        text = await metrics(session)
    assert 'swarm_gateway_requests_total{model="digest",status="499"} 1.0' in text
    assert "fault of ours" not in caplog.text and not [each for each in caplog.records if each.levelname == "ERROR"]


async def test_a_packed_body_is_refused_and_not_unpacked(swarm: DigestSwarm, caplog: pytest.LogCaptureFixture) -> None:
    async with digest_gateway(swarm) as (session, _):
        for encoding, status in (("gzip", 415), ("x, gzip", 415), ("Identity", 400)):
            headers = {"Content-Encoding": encoding}
            async with session.post("/v1/completions", data=b"abcde", headers=headers) as response:
                assert response.status == status
                assert (status == 415) == ("send it plain" in (await response.json())["error"]["message"])
    assert not [each for each in caplog.records if each.levelname == "ERROR"], caplog.text
