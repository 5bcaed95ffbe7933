"""The handler: each message a client or another hop may send, and every refusal."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from swarm.blocks import BlockStack, KVCache
from swarm.errors import AddressInvalid, Busy, HopLost, HopRefused, PeerUnreachable, ProtocolError, SessionLost
from swarm.server.checks import MAX_STEP_TOKENS
from swarm.server.engine import Engine
from swarm.server.handler import UNUSED_TIMEOUT, Handler, Served
from swarm.server.links import Links
from swarm.server.sessions import SessionTable
from swarm.types import EngineStats, Span
from swarm.wire import (
    AskStats,
    Cancel,
    Close,
    Error,
    Find,
    Found,
    Hello,
    Open,
    Opened,
    Ping,
    Result,
    Row,
    Stats,
    Step,
    unpack_timings,
)
from swarm.wire.codecs import decode_tensor, encode_tensor
from swarm.wire.limits import MAX_HOPS
from swarm.wire.messages import NO_LINEAGE
from tests.fake_wire import End, Net, join, settle

ID = b"s" * 16
OPEN = Open(ID, "tiny", "print", 0, 3, "float32")
STEP = Step(ID, 1, 0, "float32", (Row(0, 0, 0, 2, 1),))
BODY = encode_tensor(torch.randn(2, 64, generator=torch.Generator().manual_seed(0)), "float32")


class Place:
    """A server's handler with its engine, and a client's end of a channel to it."""

    def __init__(self, net: Net, handler: Handler, engine: Engine, cache: KVCache, sessions: SessionTable) -> None:
        self.net = net
        self.engine = engine
        self.handler = handler
        self.cache = cache
        self.sessions = sessions
        self.is_draining = False
        self.client = self.connect()

    def connect(self, name: str = "client") -> End:
        near, far = join(name, "server")
        far.receiver = self.handler
        near.receiver = Answers()
        return near

    async def ask(self, message: Any, body: Any = b"", *, over: End | None = None) -> tuple[Any, bytearray]:
        """Send, and wait for the answer."""
        end = over or self.client
        end.send(message, body)
        return await asyncio.wait_for(end.receiver.queue.get(), 20)

    async def idle(self) -> None:
        """Wait until the compute thread has done all that it was given so far."""
        await settle()
        async with asyncio.timeout(20):
            while self.engine.load:
                await asyncio.sleep(0.001)
            await self.engine.call(lambda: None)
        await settle()


class Answers:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[Any, bytearray]] = asyncio.Queue()

    def received(self, channel: End, message: Any, body: bytearray) -> None:
        self.queue.put_nowait((message, body))

    def closed(self, channel: End, reason: Exception | None) -> None:
        self.queue.put_nowait((reason, bytearray()))


def _as_any(value: object) -> Any:
    return value


@asynccontextmanager
async def place(
    stack: BlockStack,
    *,
    max_sessions: int = 4,
    span: Span | None = None,
    num_pages: int = 32,
    session_timeout: float = 100.0,
) -> AsyncIterator[Place]:
    net, cache, sessions = Net(), stack.new_cache(num_pages), SessionTable(max_sessions)
    served = Served(model="tiny", fingerprint="print", span=span or stack.span, hidden_size=64, context_length=256)
    async with asyncio.TaskGroup() as tasks:
        with Engine(stack, cache, threads=1) as engine:
            handler = Handler(
                served, engine, sessions, is_draining=lambda: here.is_draining, session_timeout=session_timeout
            )
            here = Place(net, handler, engine, cache, sessions)
            handler.attach(Links(net.peer("server"), tasks, on_error=handler.tell_client, on_lost=handler.lost_link))
            yield here


def is_error(message: Any, kind: type[Exception], text: str = "") -> bool:
    return isinstance(message, Error) and message.code == kind.code and text in message.text  # type: ignore[attr-defined]


async def test_a_session_is_opened_and_a_step_answered(stack: BlockStack) -> None:
    async with place(stack) as here:
        assert await here.ask(OPEN) == (Opened(ID, 32), b"")
        result, body = await here.ask(STEP, BODY)
        assert isinstance(result, Result) and (result.step, result.tokens) == (1, 1)
        (timing,) = unpack_timings(result.times)
        assert timing.total >= timing.compute > 0
        assert decode_tensor(body, "float32", tokens=1, hidden_size=64).isfinite().all()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (replace(OPEN, model="other"), "serves tiny"),
        (replace(OPEN, fingerprint="other"), "another checkpoint"),
        (replace(OPEN, start=2, end=4), "serves blocks 0:3, not 2:4"),
        (replace(OPEN, start=2, end=2), "not 2:2"),
    ],
)
async def test_sessions_for_what_is_not_served_are_refused(stack: BlockStack, message: Open, text: str) -> None:
    async with place(stack) as here:
        answer, _ = await here.ask(message)
        assert is_error(answer, HopRefused, text) and answer.session == ID
        assert len(here.sessions) == 0


async def test_a_server_that_leaves_takes_no_new_sessions_and_goes_on_with_the_old(stack: BlockStack) -> None:
    async with place(stack) as here:
        await here.ask(OPEN)
        here.is_draining = True
        answer, _ = await here.ask(replace(OPEN, session=b"t" * 16))
        assert is_error(answer, HopRefused, "leaving")
        assert isinstance((await here.ask(STEP, BODY))[0], Result)


async def test_too_many_sessions_and_ids_in_use_are_refused(stack: BlockStack) -> None:
    async with place(stack, max_sessions=1) as here:
        await here.ask(OPEN)
        busy, _ = await here.ask(replace(OPEN, session=b"t" * 16))
        assert is_error(busy, Busy) and busy.retry_after > 0
        assert is_error((await here.ask(OPEN, over=here.connect()))[0], HopRefused, "open already")


@pytest.mark.parametrize(
    ("message", "body", "kind"),
    [
        (replace(STEP, session=b"?" * 16), BODY, SessionLost),
        (Cancel(b"?" * 16, 1), b"", SessionLost),
        (replace(STEP, rows=(Row(0, 0, 255, 2, 0),)), BODY, HopRefused),  # beyond the context
        (replace(STEP, rows=(Row(0, 0, 0, MAX_STEP_TOKENS + 1, 0),)), BODY, HopRefused),
        (replace(STEP, route=("stranger",)), BODY, HopRefused),
        (replace(STEP, rows=(Row(0, 0, 5, 2, 0),)), BODY, SessionLost),  # a gap
    ],
)
async def test_steps_that_cannot_be_run_are_refused_and_the_session_goes_on(
    stack: BlockStack, message: Any, body: Any, kind: type[Exception]
) -> None:
    async with place(stack) as here:
        await here.ask(OPEN)
        answer, _ = await here.ask(message, body)
        assert is_error(answer, kind) and answer.session == message.session
        assert isinstance((await here.ask(STEP, BODY))[0], Result)


@pytest.mark.parametrize(
    ("message", "body"),
    [
        (Result(ID, 1, "float32", 0), b""),
        (Opened(ID), b""),
        (replace(STEP, rows=(Row(0, 0, 0, 1, 1), Row(0, 0, 1, 1, 1))), BODY),
        (replace(STEP, rows=(Row(0, 0, 0, 2, 3),)), BODY),
        (STEP, b"short"),
    ],
)
async def test_what_breaks_the_protocol_ends_its_channel_and_no_other(
    stack: BlockStack, message: Any, body: bytes
) -> None:
    async with place(stack) as here:
        other = here.connect()
        await here.ask(replace(OPEN, session=b"o" * 16), over=other)
        await here.ask(OPEN)
        reason, _ = await here.ask(message, body)
        assert isinstance(reason, ProtocolError)
        assert [session.session_id for session in here.sessions] == [b"o" * 16]
        assert isinstance((await here.ask(replace(STEP, session=b"o" * 16), BODY, over=other))[0], Result)


async def test_a_step_is_taken_from_whoever_knows_the_id_and_answered_to_the_owner(stack: BlockStack) -> None:
    async with place(stack) as here:
        await here.ask(OPEN)
        hop_before = here.connect()
        hop_before.send(STEP, BODY)
        result, _ = await asyncio.wait_for(here.client.receiver.queue.get(), 20)
        assert isinstance(result, Result)
        assert hop_before.receiver.queue.empty()


async def test_only_the_owner_closes_a_session_and_its_pages_are_freed(stack: BlockStack) -> None:
    async with place(stack) as here:
        await here.ask(OPEN)
        await here.ask(STEP, BODY)
        assert here.cache.free_pages == 31
        stranger = here.connect()
        stranger.send(Close(ID))
        await settle()
        assert len(here.sessions) == 1
        here.client.send(Close(ID))
        here.client.send(Close(ID))
        await settle()
        await here.idle()
        assert len(here.sessions) == 0 and here.cache.free_pages == 32


async def test_a_channel_that_ends_takes_its_sessions_and_their_pages_with_it(stack: BlockStack) -> None:
    async with place(stack) as here:
        for letter in (b"a", b"b"):
            await here.ask(replace(OPEN, session=letter * 16))
            await here.ask(replace(STEP, session=letter * 16), BODY)
        here.client.send(replace(STEP, session=b"a" * 16), BODY)  # still waits when the channel ends
        here.client.close(HopLost("gone"))
        await here.idle()
        assert len(here.sessions) == 0
        here.cache.check()
        assert here.cache.free_pages == 32


async def test_steps_of_a_cancelled_epoch_are_dropped_without_an_answer(stack: BlockStack) -> None:
    async with place(stack) as here:
        await here.ask(OPEN)
        here.client.send(Cancel(ID, 2))
        here.client.send(replace(STEP, epoch=1), BODY)
        result, _ = await here.ask(replace(STEP, step=9, epoch=2), BODY)
        assert isinstance(result, Result) and result.step == 9


async def test_a_push_that_fails_is_told_to_the_client(stack: BlockStack) -> None:
    async with place(stack) as here:
        await here.ask(replace(OPEN, next_peer="nobody", next_addrs=("/ip4/127.0.0.1/tcp/1",)))
        answer, _ = await here.ask(replace(STEP, route=("nobody",)), BODY)
        assert is_error(answer, PeerUnreachable, "nobody") and (answer.session, answer.step) == (ID, 1)


async def test_a_next_peer_that_is_no_peer_id_harms_nobody(stack: BlockStack) -> None:
    async with place(stack) as here:
        await here.ask(replace(OPEN, next_peer="no peer id", next_addrs=("rubbish",)))
        answer, _ = await here.ask(replace(STEP, route=("no peer id",)), BODY)
        assert is_error(answer, PeerUnreachable) or is_error(answer, AddressInvalid)
        assert isinstance((await here.ask(replace(OPEN, session=b"t" * 16)))[0], Opened)


async def test_an_output_goes_on_whole_with_the_rest_of_the_route(stack: BlockStack) -> None:
    async with place(stack) as here:
        far = Answers()
        here.net.accepting["next"] = lambda end: far
        await here.ask(replace(OPEN, next_peer="next"))
        here.client.send(replace(STEP, route=("next", "last")), BODY)
        pushed, body = await asyncio.wait_for(far.queue.get(), 20)
        assert isinstance(pushed, Step) and pushed.route == ("last",) and pushed.rows == STEP.rows
        assert len(unpack_timings(pushed.times)) == 1
        assert len(body) == 2 * 64 * 4  # both tokens, though the client keeps one


async def test_complaints_of_the_next_hop_and_a_lost_link_reach_the_client(stack: BlockStack) -> None:
    async with place(stack) as here:
        here.net.accepting["next"] = lambda end: Answers()
        await here.ask(replace(OPEN, next_peer="next"))
        await settle()
        far = here.net.ends["server", "next"].other
        assert far is not None
        far.send(Error(ID, 4, SessionLost.code, "not open here"))
        answer, _ = await asyncio.wait_for(here.client.receiver.queue.get(), 20)
        assert is_error(answer, HopLost, "not open here") and answer.step == 4
        far.close(HopLost("gone"))
        answer, _ = await asyncio.wait_for(here.client.receiver.queue.get(), 20)
        assert is_error(answer, HopLost, "next") and answer.step == 0


async def test_an_output_that_cannot_be_sent_is_told_to_the_client(stack: BlockStack) -> None:
    async with place(stack) as here:
        here.net.accepting["next"] = lambda end: Answers()
        await here.ask(replace(OPEN, next_peer="next"))
        await settle()
        here.net.ends["server", "next"].refuses = ProtocolError("body over the limit")
        answer, _ = await here.ask(replace(STEP, route=("next",)), BODY)
        assert is_error(answer, ProtocolError, "over the limit") and answer.step == 1


async def test_outputs_leave_from_the_compute_thread_where_channels_take_them(stack: BlockStack) -> None:
    async with place(stack) as here:
        owner = here.client.other
        assert owner is not None
        await here.ask(OPEN)
        slow = await here.ask(STEP, BODY)
        owner.loop = asyncio.get_running_loop()
        fast = await here.ask(replace(STEP, step=2), BODY)
        assert owner.num_sent_now == 1
        assert (slow[0].step, fast[0].step) == (1, 2) and slow[1] == fast[1]
        answer, _ = await here.ask(replace(STEP, rows=(Row(5, 6, 0, 2, 1),)), BODY)
        assert is_error(answer, SessionLost) and owner.num_sent_now == 1  # errors are the loop's
        assert (await here.ask(replace(STEP, step=3), BODY))[0].step == 3
        owner.refuses = ProtocolError("body over the limit")
        here.client.send(replace(STEP, step=4), BODY)
        await here.idle()
        owner.refuses = None
        assert (await here.ask(replace(STEP, step=5), BODY))[0].step == 5
        assert owner.num_sent_now == 3
        await here.idle()
        session = here.sessions.get(ID)
        assert (session.num_received, session.steps_waiting, session.num_left) == (6, 0, session.num_finished)


async def test_no_output_overtakes_one_that_waits_for_the_dial_or_for_the_loop(stack: BlockStack) -> None:
    async with place(stack) as here:
        far, owner = Answers(), here.client.other
        assert owner is not None
        here.net.accepting["next"] = lambda end: far
        here.net.gate = asyncio.Event()
        await here.ask(replace(OPEN, next_peer="next"))
        step = replace(STEP, route=("next",))
        for number in range(1, 4):
            here.client.send(replace(step, step=number), BODY)
        await here.idle()
        session = here.sessions.get(ID)
        assert (session.num_left, session.num_sent_now) == (3, 0)
        here.net.gate.set()
        while ("server", "next") not in here.net.ends:
            await asyncio.sleep(0)
        here.net.ends["server", "next"].loop = asyncio.get_running_loop()
        for number in range(4, 40):
            here.client.send(replace(step, step=number), BODY)
            if number % 5 == 0:  # refused in its turn
                here.client.send(replace(step, step=number, rows=(Row(5, 6, 0, 2, 1),)), BODY)
        pushed = [(await asyncio.wait_for(far.queue.get(), 20))[0].step for _ in range(39)]
        assert pushed == list(range(1, 40))
        assert session.num_sent_now > 0 and session.num_received == 39 + 7
        await here.idle()
        assert session.steps_waiting == 0


async def test_messages_of_the_handshake_are_not_for_the_handler(stack: BlockStack) -> None:
    async with place(stack) as here:
        for message in (Hello(1, 1, "x"), Ping(1)):
            with pytest.raises(ProtocolError, match="not for a server"):
                here.handler.received(_as_any(here.client), message, bytearray())


async def test_sessions_that_are_opened_and_never_used_or_left_alone_expire(stack: BlockStack) -> None:
    async with place(stack, session_timeout=100.0) as here:
        await here.ask(OPEN)
        await here.ask(replace(OPEN, session=b"u" * 16))
        await here.ask(replace(STEP, session=b"u" * 16), BODY)
        now = time.monotonic()
        here.handler.expire(now + UNUSED_TIMEOUT - 1)
        assert len(here.sessions) == 2
        here.handler.expire(now + UNUSED_TIMEOUT + 1)
        lost, _ = await asyncio.wait_for(here.client.receiver.queue.get(), 5)
        assert is_error(lost, SessionLost, "not used") and lost.session == ID
        here.handler.expire(now + 99)
        assert [session.session_id for session in here.sessions] == [b"u" * 16]
        here.handler.expire(now + 200)
        lost, _ = await asyncio.wait_for(here.client.receiver.queue.get(), 5)
        assert is_error(lost, SessionLost) and lost.session == b"u" * 16
        await here.idle()
        assert here.cache.free_pages == 32
        answer, _ = await here.ask(replace(STEP, session=b"u" * 16), BODY)
        assert is_error(answer, SessionLost)


HASHES = b"1" * 16 + b"2" * 16
LONG_STEP = replace(STEP, rows=(Row(0, 0, 0, 40, 1),), marks=HASHES)
LONG_BODY = encode_tensor(torch.randn(40, 64, generator=torch.Generator().manual_seed(1)), "float32")


async def test_a_prompt_computed_before_is_found_by_its_client_and_by_nobody_else(stack: BlockStack) -> None:
    async with place(stack) as here:
        opened = replace(OPEN, lineage=b"l" * 16)
        await here.ask(opened)
        whole = await here.ask(LONG_STEP, LONG_BODY)
        again = replace(opened, session=b"t" * 16)
        await here.ask(again)
        assert (await here.ask(Find(b"t" * 16, 0, HASHES + b"3" * 16)))[0] == Found(b"t" * 16, 0, 32)
        rest = Step(b"t" * 16, 1, 0, "float32", (Row(0, 0, 32, 8, 1),))
        found = await here.ask(rest, LONG_BODY[32 * 256 :])
        expected, answer = (decode_tensor(body, "float32", tokens=1, hidden_size=64) for _, body in (whole, found))
        torch.testing.assert_close(answer, expected, rtol=0.0, atol=1e-4)
        stranger = here.connect("stranger")
        for number, message in enumerate((opened, replace(OPEN, lineage=NO_LINEAGE))):
            session = bytes([number]) * 16
            await here.ask(replace(message, session=session), over=stranger)
            assert (await here.ask(Find(session, 0, HASHES), over=stranger))[0] == Found(session, 0, 0)
        answer, _ = await here.ask(Find(ID, 0, HASHES), over=stranger)
        assert is_error(answer, SessionLost, "another client")


@pytest.mark.parametrize("marks", [HASHES[:16], HASHES + b"3" * 16])
async def test_marks_that_do_not_fit_the_pages_break_the_protocol(stack: BlockStack, marks: bytes) -> None:
    async with place(stack) as here:
        await here.ask(OPEN)
        reason, _ = await here.ask(replace(LONG_STEP, marks=marks), LONG_BODY)
        assert isinstance(reason, ProtocolError)


async def test_whoever_asks_is_told_how_the_engine_does(stack: BlockStack) -> None:
    async with place(stack) as here:
        await here.ask(OPEN)
        await here.ask(STEP, BODY)
        answer, _ = await here.ask(AskStats(), over=here.connect("stranger"))
        stats = EngineStats.of(answer.values) if isinstance(answer, Stats) else None
        assert stats is not None and (stats.sessions, stats.pages, stats.pages_used) == (1, 32, 1)


async def test_while_open_sessions_wait_for_pages_no_new_one_is_opened(stack: BlockStack) -> None:
    async with place(stack, num_pages=2) as here:
        await here.ask(OPEN)
        await here.ask(replace(STEP, rows=(Row(0, 0, 0, 32, 1),)), encode_tensor(torch.zeros(32, 64), "float32"))
        answer, _ = await here.ask(replace(OPEN, session=b"t" * 16))
        assert is_error(answer, Busy) and answer.retry_after > 0
        refused, _ = await here.ask(replace(STEP, rows=(Row(0, 0, 32, 2, 1),)), BODY)
        assert is_error(refused, HopRefused)  # more than all pages hold: waiting would not help


async def test_one_client_cannot_fill_the_queue_for_all(stack: BlockStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.server.engine.MAX_WAITING", 20)
    async with place(stack) as here:
        other = here.connect("other")
        await here.ask(OPEN)
        await here.ask(replace(OPEN, session=b"o" * 16), over=other)
        gate = threading.Event()
        held = asyncio.ensure_future(here.engine.call(lambda: gate.wait(20)))
        await asyncio.sleep(0)
        for number in range(15):
            here.client.send(replace(STEP, step=number + 1), BODY)
        other.send(replace(STEP, session=b"o" * 16), BODY)
        await settle()
        gate.set()
        await held
        answers = [(await asyncio.wait_for(here.client.receiver.queue.get(), 20))[0] for _ in range(15)]
        refused = [answer for answer in answers if isinstance(answer, Error)]
        assert len(refused) == 4 and all(is_error(answer, Busy, "your steps") for answer in refused)
        assert isinstance((await asyncio.wait_for(other.receiver.queue.get(), 20))[0], Result)


async def test_a_step_that_has_passed_too_many_hops_is_refused_before_the_next_one_must(stack: BlockStack) -> None:
    async with place(stack) as here:
        await here.ask(OPEN)
        answer, _ = await here.ask(replace(STEP, times=b"t" * 12 * MAX_HOPS), BODY)
        assert is_error(answer, HopRefused, "hops already")
        assert isinstance((await here.ask(replace(STEP, times=b"t" * 12 * (MAX_HOPS - 1)), BODY))[0], Result)


async def test_stats_asked_for_again_and_again_are_made_once(
    stack: BlockStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place(stack) as here:
        made: list[int] = []
        stats = here.handler.stats
        monkeypatch.setattr(here.handler, "stats", lambda: (made.append(1), stats())[1])
        for _ in range(50):
            await here.ask(AskStats())
        assert len(made) == 1


async def test_one_client_gets_half_of_the_sessions(stack: BlockStack) -> None:
    async with place(stack, max_sessions=4) as here:
        for letter in (b"a", b"b"):
            await here.ask(replace(OPEN, session=letter * 16))
        assert is_error((await here.ask(OPEN))[0], Busy, "are yours")
        assert isinstance((await here.ask(OPEN, over=here.connect("other")))[0], Opened)


async def test_next_hops_without_end_are_refused(stack: BlockStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarm.server.links.MAX_LINKS", 3)
    async with place(stack, max_sessions=20) as here:
        here.net.gate = asyncio.Event()
        answers = [
            (await here.ask(replace(OPEN, session=bytes([number]) * 16, next_peer=f"peer{number}")))[0]
            for number in range(5)
        ]
        assert [isinstance(answer, Opened) for answer in answers] == [True, True, True, False, False]
        assert is_error(answers[-1], Busy) and len(here.sessions) == 3
        here.net.gate.set()


async def test_a_dial_that_fails_in_an_unforeseen_way_ends_nothing(
    stack: BlockStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with place(stack) as here:

        def broken(one: str, other: str) -> End:
            raise RuntimeError("a certificate from another world")

        monkeypatch.setattr(here.net, "dial", broken)
        await here.ask(replace(OPEN, next_peer="odd"))
        answer, _ = await here.ask(replace(STEP, route=("odd",)), BODY)
        assert is_error(answer, PeerUnreachable, "odd")
        assert isinstance((await here.ask(replace(OPEN, session=b"t" * 16)))[0], Opened)


async def test_outputs_of_one_batch_that_go_one_way_leave_in_one_piece(
    stack: BlockStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place(stack) as here:
        owner, pieces = here.client.other, list[int]()
        assert owner is not None
        owner.loop = asyncio.get_running_loop()
        send = owner.try_send_now
        monkeypatch.setattr(owner, "try_send_now", lambda frames: (pieces.append(len(frames)), send(frames))[1])
        await here.ask(OPEN)
        await here.ask(replace(OPEN, session=b"t" * 16))
        gate = threading.Event()
        held = asyncio.ensure_future(here.engine.call(lambda: gate.wait(20)))
        await asyncio.sleep(0)
        for session in (ID, b"t" * 16):
            here.client.send(replace(STEP, session=session), BODY)
        await settle()
        gate.set()
        await held
        answers = [(await asyncio.wait_for(here.client.receiver.queue.get(), 20))[0] for _ in range(2)]
        assert all(isinstance(answer, Result) for answer in answers) and pieces == [2]
