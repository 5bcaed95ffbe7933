"""A client that never reads what it asked for, over a real connection: it is cut off, nobody else notices."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from swarm.blocks import BlockStack
from swarm.network import Channel, stream
from swarm.server.engine import Engine
from swarm.server.handler import Handler, Served
from swarm.server.links import Links
from swarm.server.sessions import SessionTable
from swarm.wire import Open, Result, Row, Step
from swarm.wire.codecs import encode_tensor
from tests.network.ends import Inbox, pair

TOKENS = 200


@pytest.mark.slow
async def test_a_client_that_never_reads_is_cut_off_and_the_others_do_not_notice(
    stack: BlockStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_UNSENT_BYTES", 1 << 20)
    cache, sessions = stack.new_cache(32), SessionTable(4)
    served = Served(model="tiny", fingerprint="print", span=stack.span, hidden_size=64, context_length=256)
    body = encode_tensor(torch.randn(TOKENS, 64), "float32")
    async with pair() as both, pair() as others, asyncio.TaskGroup() as tasks:
        with Engine(stack, cache, threads=1) as engine:
            handler = Handler(served, engine, sessions, is_draining=lambda: False, session_timeout=100.0)
            links = Links(both.listener, tasks, on_error=handler.tell_client, on_lost=handler.lost_link)
            handler.attach(links)
            await both.listener.serve(lambda channel: handler)
            both.listener._handler = lambda channel: handler
            deaf, _ = await connect(both.dialler, both.listener)
            fine, inbox = await connect(others.dialler, both.listener)
            for channel, session in ((deaf, b"d" * 16), (fine, b"f" * 16)):
                channel.send(Open(session, "tiny", "print", 0, 3, "float32"))
            await inbox.next()
            transport: Any = deaf._stream._transport
            transport.pause_reading()
            for number in range(1, 2000):
                if len(sessions) == 1:
                    break
                deaf.send(Step(b"d" * 16, number, 0, "float32", (Row(0, 0, 0, TOKENS, TOKENS),)), body)
                fine.send(Step(b"f" * 16, number, 0, "float32", (Row(0, 0, 0, 2, 1),)), body[: 2 * 256])
                answer, _ = await inbox.next()
                assert isinstance(answer, Result) and answer.step == number
            assert [session.session_id for session in sessions] == [b"f" * 16]
            await engine.call(lambda: None)
            assert cache.num_pages - cache.free_pages == 1
            fine.send(Step(b"f" * 16, 9999, 0, "float32", (Row(0, 0, 0, 2, 1),)), body[: 2 * 256])
            assert isinstance((await inbox.next())[0], Result)
            await fine.close()


async def connect(dialler: Any, listener: Any) -> tuple[Channel, Inbox]:
    addrs = [str(addr) for addr in (*listener.addrs, *listener.direct_addrs)]
    channel = await dialler.channel(listener.peer_id, addrs)
    inbox = Inbox()
    channel.receiver = inbox
    return channel, inbox
