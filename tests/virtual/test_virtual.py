"""The virtual network itself: its clock, its faults, and that a seed decides everything."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from swarm.blocks import Checkpoint, open_checkpoint
from swarm.errors import BlocksMissing, HopLost, HopTimeout, PeerUnreachable
from swarm.network import Channel, Timeouts
from swarm.types import Span
from tests.builders import make_llama, some_ids
from tests.network.ends import Inbox, result
from tests.virtual import VirtualNet, VirtualSwarm, run, run_swarm

Tiny = tuple[LlamaForCausalLM, Checkpoint]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder: Path = tmp_path_factory.mktemp("virtual") / "tiny"
    model = make_llama(folder, 3, num_blocks=4)
    return model, open_checkpoint(str(folder))


async def joined(net: VirtualNet) -> tuple[Channel, Inbox, Inbox]:
    """Return a channel of "one" to "two", and what each of them receives."""
    one, two = net.peer("one"), net.peer("two")
    inbound = Inbox()
    two._handler = lambda channel: inbound
    channel = await one.channel(two.peer_id, net.addrs("two"))
    channel.receiver = inbox = Inbox()
    return channel, inbox, inbound


def test_time_jumps_to_the_next_timer_and_all_clocks_with_it() -> None:
    async def sleep() -> tuple[float, float, float]:
        before = time.monotonic(), time.time(), asyncio.get_running_loop().time()
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(7200))
        after = time.monotonic(), time.time(), asyncio.get_running_loop().time()
        return tuple(b - a for a, b in zip(before, after, strict=True))  # type: ignore[return-value]

    started = time.monotonic()
    assert run(sleep()) == pytest.approx((7200, 7200, 7200), abs=1e-3)
    assert time.monotonic() - started < 2


def test_what_waits_for_nothing_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.virtual.loop._PATIENCE", 0.01)

    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="for ever"):
        run(wait())


def test_delays_add_up_on_real_channels() -> None:
    async def story() -> None:
        async with VirtualNet(delay=0.04).open() as net:
            channel, inbox, inbound = await joined(net)
            assert net.now == pytest.approx(0.24, abs=1e-3)  # TCP, TLS, Hello: a round trip each
            channel.send(result(1), b"x" * 100_000)
            await inbound.next()
            assert net.now == pytest.approx(0.28, abs=1e-3)
            await asyncio.sleep(1)
            assert channel.round_trip == pytest.approx(0.08, abs=1e-3)
            net.set("one", "two", delay=0.5)
            channel.send(result(2))
            began = net.now
            await inbound.next()
            assert net.now - began == pytest.approx(0.5, abs=1e-3)
            assert inbox.messages.empty()

    run(story())


def test_a_cut_is_silence_until_the_heartbeat_times_out() -> None:
    async def story() -> None:
        async with VirtualNet(delay=0.01).open() as net:
            _, inbox, inbound = await joined(net)
            await asyncio.sleep(60)
            net.cut("one", "two")
            began = net.now
            assert isinstance(await inbox.end(60), HopTimeout)
            limits = Timeouts()
            assert limits.heartbeat_timeout - limits.heartbeat_interval <= net.now - began
            assert net.now - began <= limits.heartbeat_timeout + limits.heartbeat_interval
            assert isinstance(await inbound.end(60), HopTimeout)
            with pytest.raises(PeerUnreachable):
                await net._peers["one"].channel(net._peers["two"].peer_id, net.addrs("two"))

    run(story())


def test_what_a_short_cut_held_back_arrives_in_order_when_it_is_mended() -> None:
    async def story() -> None:
        async with VirtualNet(delay=0.01).open() as net:
            channel, _, inbound = await joined(net)
            net.cut("two")
            for step in range(5):
                channel.send(result(step), b"x")
            await asyncio.sleep(3)
            assert inbound.messages.empty()
            net.mend("two")
            assert [(await inbound.next())[0] for _ in range(5)] == [result(step) for step in range(5)]
            assert channel.is_open and net.now < 4

    run(story())


@pytest.mark.parametrize("how", ["drop", "kill"])
def test_a_broken_connection_is_noticed_at_both_ends(how: str) -> None:
    async def story() -> None:
        async with VirtualNet(delay=0.01).open() as net:
            channel, inbox, inbound = await joined(net)
            channel.send(result(1))  # lost under way
            began = net.now
            net.drop("one", "two") if how == "drop" else net.kill("two")
            assert isinstance(await inbox.end(), HopLost)
            assert isinstance(await inbound.end(), HopLost)
            assert net.now - began < 0.02 and inbound.messages.empty() and not channel.is_open
            one, two = net._peers["one"], net._peers["two"]
            if how == "drop":
                assert (await one.channel(two.peer_id, net.addrs("two"))).is_open
            else:
                with pytest.raises(PeerUnreachable, match="refused"):
                    await one.channel(two.peer_id, net.addrs("two"))

    run(story())


def test_a_channel_is_closed_in_order() -> None:
    async def story() -> None:
        async with VirtualNet(delay=0.01).open() as net:
            channel, inbox, inbound = await joined(net)
            channel.send(result(1), b"last words")
            await channel.close()
            assert (await inbound.next())[1] == b"last words"
            assert await inbound.end() is None and await inbox.end() is None

    run(story())


def test_jitter_reorders_channels_but_no_single_one() -> None:
    async def story() -> list[tuple[str, int]]:
        arrived: list[tuple[str, int]] = []

        class Noting(Inbox):
            def received(self, channel: Channel, message: object, body: bytearray) -> None:
                arrived.append((net.name(channel.remote), message.step))  # type: ignore[attr-defined]

        async with VirtualNet(delay=0.01, jitter=0.05, seed=3).open() as net:
            names = ("one", "two", "three")
            target = net.peer("target")
            target._handler = lambda channel: Noting()
            channels = [await net.peer(name).channel(target.peer_id, net.addrs("target")) for name in names]
            for step in range(20):
                for channel in channels:
                    channel.send(result(step))
                await asyncio.sleep(0.002)
            await asyncio.sleep(1)
        for name in names:
            assert [step for who, step in arrived if who == name] == list(range(20))
        return arrived

    arrived = run(story())
    assert any(later[1] < earlier[1] for earlier, later in pairwise(arrived))
    assert run(story()) == arrived


PROMPT = some_ids(21, seed=7).clamp(min=3).tolist()


def local(tiny: Tiny, new_tokens: int) -> list[int]:
    ids = torch.tensor([PROMPT])
    made = tiny[0].generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, eos_token_id=None
    )
    return made[0, len(PROMPT) :].tolist()


def test_real_ends_decode_as_transformers_and_take_the_time_of_the_route(tiny: Tiny) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        for name, start, end in (("first", 0, 1), ("second", 1, 3), ("third", 3, 4)):
            swarm.serve(name, start, end, seconds=0.002)
        client = swarm.client()
        session = await client.open_session(swarm.model, Span(0, 4))
        assert [swarm.net.name(hop.peer) for hop in session.hops] == ["first", "second", "third"]
        await asyncio.sleep(1)  # the servers have dialled each other
        began = swarm.net.now
        tokens = await swarm.generate(client, session, PROMPT, 1)
        assert swarm.net.now - began == pytest.approx(4 * 0.04 + 5 * 0.002, abs=0.005)  # three chunks overlap
        began = swarm.net.now
        logits = await swarm.step(client, session, tokens, position=len(PROMPT))
        assert swarm.net.now - began == pytest.approx(4 * 0.04 + 3 * 0.002, abs=0.002)
        assert [*tokens, int(logits.argmax())] == local(tiny, 2)

    run_swarm(story, tiny[1], delay=0.04)


def test_who_loses_the_only_server_of_some_blocks_is_told_in_time_which_they_are(tiny: Tiny) -> None:
    async def story(swarm: VirtualSwarm) -> None:
        swarm.serve("first", 0, 2)
        for name in ("killed", "silent"):
            swarm.serve(name, 2, 4)
            client = swarm.client(f"client of {name}")
            session = await client.open_session(swarm.model, Span(0, 4))
            await swarm.generate(client, session, PROMPT, 3)
            began = swarm.net.now
            if name == "killed":
                await swarm.kill(name)
            else:
                swarm.net.cut(name)
            with pytest.raises(BlocksMissing, match="2:4"):
                await swarm.step(client, session, [5], position=len(PROMPT) + 2)
            assert swarm.net.now - began < (10 if name == "killed" else 13)
            client.forget(session)
            swarm.ttl = 0.0
            swarm._gone.clear()

    run_swarm(story, tiny[1], delay=0.01)


def test_the_same_seed_is_the_same_story(tiny: Tiny) -> None:
    async def story(swarm: VirtualSwarm) -> tuple[list[int], float]:
        swarm.serve("first", 0, 2)
        swarm.serve("second", 2, 4)
        client = swarm.client()
        session = await client.open_session(swarm.model, Span(0, 4))
        return await swarm.generate(client, session, PROMPT, 8), swarm.net.now

    runs = [run_swarm(story, tiny[1], delay=0.02, jitter=0.02, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] and runs[0][0] == runs[2][0] == local(tiny, 8)
    assert runs[0][1] != runs[2][1]


def test_a_thread_beside_the_loop_sees_the_real_time_and_does_not_move_the_loops() -> None:
    async def main() -> None:
        loop, seen = asyncio.get_running_loop(), list[float]()
        before = loop.time()
        thread = threading.Thread(target=lambda: seen.extend(time.monotonic() for _ in range(100)))
        thread.start()
        thread.join()
        assert loop.time() == before
        assert all(0 <= each - real < 60 for each in seen)

    real = time.monotonic()
    run(main())
