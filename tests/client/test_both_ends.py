"""Both ends joined by a wire in memory: real client, real servers, tiny blocks; the tokens equal transformers' own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import LlamaForCausalLM

from swarm.blocks import BlockStack, Checkpoint, KVCache, ModelEnds, open_checkpoint
from swarm.client import ClientConfig, SwarmForCausalLM
from swarm.client.bridge import bridge as the_bridge
from swarm.client.legs import Leg
from swarm.client.opening import Model, Wanted
from swarm.client.session import Session
from swarm.client.step_run import StepRun
from swarm.client.streaming import TokenStream
from swarm.server.engine import Engine
from swarm.server.handler import Handler, Served
from swarm.server.links import Links
from swarm.server.sessions import SessionTable
from swarm.types import Hop, PeerId, Span
from swarm.wire import Result, Step
from tests.builders import make_llama, some_ids
from tests.fake_wire import End, Net

NUM_BLOCKS = 4
SPLITS = {"one server": (0, 4), "three servers": (0, 1, 3, 4)}


class Swarm:
    """Servers on a fake net, and what a model needs of a `Connection`."""

    def __init__(self, checkpoint: Checkpoint, bounds: tuple[int, ...]) -> None:
        self.net = Net()
        self.checkpoint = checkpoint
        self.hops = [Hop(PeerId(f"peer{start}"), start, end) for start, end in pairwise(bounds)]
        self.caches: list[KVCache] = []
        self.sessions: dict[bytes, Session] = {}
        self.config = ClientConfig(initial_peers=("x",), chunk_tokens=8)
        self.prefixes = None
        self._over = asyncio.Event()

    async def start(self) -> None:
        # A task group must be left by the task that entered it, so one task holds the servers.
        ready = asyncio.Event()
        self._life = asyncio.create_task(self._live(ready))
        await asyncio.wait_for(ready.wait(), 30)

    async def stop(self) -> None:
        self._over.set()
        await self._life

    async def _live(self, ready: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            for hop in self.hops:
                self.caches.append(self._serve(hop, stack, tasks))
            ready.set()
            await self._over.wait()

    def _serve(self, hop: Hop, stack: AsyncExitStack, tasks: asyncio.TaskGroup) -> KVCache:
        blocks = BlockStack.load(self.checkpoint, hop.span, dtype=torch.float32)
        cache = blocks.new_cache(64)
        engine = stack.enter_context(Engine(blocks, cache, threads=1))
        served = Served(
            model=self.checkpoint.name,
            fingerprint=self.checkpoint.fingerprint,
            span=hop.span,
            hidden_size=64,
            context_length=256,
        )
        handler = Handler(served, engine, SessionTable(8), is_draining=lambda: False, session_timeout=100.0)
        handler.attach(Links(self.net.peer(hop.peer), tasks, on_error=handler.tell_client, on_lost=handler.lost_link))
        self.net.accepting[hop.peer] = lambda end: handler
        return cache

    async def open_session(self, model: Model, span: Span, wanted: Sequence[Wanted] = ()) -> Session:
        channels = [self.net.dial("client", hop.peer) for hop in self.hops]
        legs = [Leg(hop, end.as_channel(), ()) for hop, end in zip(self.hops, channels, strict=True)]
        session = Session(legs, model, "float32", self.config)
        self.sessions[session.session_id] = session
        for end in channels:
            end.receiver = self
        await session.open(wanted)
        return session

    async def step(self, session: Session, *words: Any) -> torch.Tensor:
        return await StepRun(session, *words).go_on()

    def forget(self, session: Session) -> None:
        session.close()
        self.sessions.pop(session.session_id, None)

    def received(self, channel: End, message: Any, body: bytearray) -> None:
        if (session := self.sessions.get(message.session)) is not None:
            session.received(channel.as_channel(), message, body)

    def closed(self, channel: End, reason: Exception | None) -> None:
        for session in self.sessions.values():
            session.lost(channel.as_channel(), reason)

    async def freed(self) -> bool:
        """Wait until every page is free again; False if that does not happen."""
        for _ in range(1000):
            if all(cache.free_pages == cache.num_pages for cache in self.caches):
                return True
            await asyncio.sleep(0.005)
        return False


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaForCausalLM, Checkpoint]:
    folder: Path = tmp_path_factory.mktemp("joined") / "tiny"
    model = make_llama(folder, 3, num_blocks=NUM_BLOCKS)
    return model, open_checkpoint(str(folder))


@pytest.fixture(params=SPLITS.values(), ids=SPLITS.keys())
def swarm(request: pytest.FixtureRequest, reference: tuple[LlamaForCausalLM, Checkpoint]) -> Iterator[Swarm]:
    swarm, bridge = Swarm(reference[1], request.param), the_bridge()
    bridge.run(swarm.start())
    yield swarm
    bridge.run(swarm.stop())


def remote_model(swarm: Swarm) -> SwarmForCausalLM:
    checkpoint = swarm.checkpoint
    return SwarmForCausalLM(
        checkpoint.config.to_transformers(),
        ends=ModelEnds.load(checkpoint, dtype=torch.float32),
        model=Model(name=checkpoint.name, fingerprint=checkpoint.fingerprint, hidden_size=64),
        connection=cast(Any, swarm),
    )


PROMPT = some_ids(21, seed=7)[None].clamp(min=3)
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams": {"num_beams": 4, "num_return_sequences": 2, "do_sample": False},
    "sampling": {"do_sample": True, "num_return_sequences": 3, "top_k": 20},
    "prompt lookup": {"prompt_lookup_num_tokens": 3, "do_sample": False},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_tokens_equal_a_local_run(
    swarm: Swarm, reference: tuple[LlamaForCausalLM, Checkpoint], options: dict[str, Any]
) -> None:
    outputs = []
    for model in (reference[0], remote_model(swarm)):
        torch.manual_seed(0)
        mask = torch.ones_like(PROMPT)
        outputs.append(model.generate(PROMPT, attention_mask=mask, max_new_tokens=12, eos_token_id=None, **options))
    assert torch.equal(outputs[0], outputs[1])


def test_a_padded_batch_equals_a_local_run(swarm: Swarm, reference: tuple[LlamaForCausalLM, Checkpoint]) -> None:
    ids, mask = PROMPT.repeat(3, 1), torch.ones(3, PROMPT.shape[1], dtype=torch.long)
    for row, padding in enumerate((0, 5, 13)):
        ids[row, :padding], mask[row, :padding] = 0, 0
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    expected = reference[0].generate(ids, attention_mask=mask, **options)
    assert torch.equal(remote_model(swarm).generate(ids, attention_mask=mask, **options), expected)


def test_a_kept_session_computes_only_what_is_new_and_frees_its_pages_at_the_end(
    swarm: Swarm, reference: tuple[LlamaForCausalLM, Checkpoint]
) -> None:
    model = remote_model(swarm)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    with model.inference_session() as session:
        first = model.generate(PROMPT, **options)
        longer = torch.cat([first, PROMPT[:, :3]], 1)
        sent_before = num_tokens_sent(swarm)
        second = model.generate(longer, **options)
        # The last token of before, three new ones, and all but the last of four more.
        assert num_tokens_sent(swarm) - sent_before == 1 + 3 + 3
        assert session.position == second.shape[1] - 1
    assert torch.equal(second, reference[0].generate(longer, **options))
    assert the_bridge().run(swarm.freed())
    for cache in swarm.caches:
        cache.check()


def test_outputs_go_from_hop_to_hop_and_one_result_a_step_comes_back(swarm: Swarm) -> None:
    remote_model(swarm).generate(PROMPT, max_new_tokens=5, do_sample=False, eos_token_id=None)
    ends = {hop.peer: swarm.net.ends["client", hop.peer] for hop in swarm.hops}
    steps = ends[swarm.hops[0].peer].messages(Step)
    assert len(steps) == 3 + 4  # 21 tokens in chunks of 8, then one at a time
    for hop in swarm.hops:
        far = ends[hop.peer].other
        assert far is not None
        assert len(far.messages(Result)) == (len(steps) if hop is swarm.hops[-1] else 0)
        if hop is not swarm.hops[0]:
            assert ends[hop.peer].messages(Step) == []


def num_tokens_sent(swarm: Swarm) -> int:
    steps = swarm.net.ends["client", swarm.hops[0].peer].messages(Step)
    return sum(row.length for step in steps for row in step.rows)


async def read(stream: TokenStream) -> list[int]:
    return [token async for token in stream]


STREAMED: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "seed": 3},
    "sampling with top-p": {"do_sample": True, "top_k": 0, "top_p": 0.9, "temperature": 1.4, "seed": 4},
    "repetition penalty": {"do_sample": False, "repetition_penalty": 1.5},
    "no repeated ngram": {"do_sample": True, "no_repeat_ngram_size": 2, "seed": 5},
    "suppressed": {"do_sample": False, "suppress_tokens": [1, 5, 9, 100], "min_new_tokens": 5},
}


@pytest.mark.parametrize("options", STREAMED.values(), ids=STREAMED.keys())
async def test_a_stream_equals_generate(swarm: Swarm, options: dict[str, Any]) -> None:
    model = remote_model(swarm)
    streamed = await read(model.stream(PROMPT, max_new_tokens=12, **options))
    torch.manual_seed(options.get("seed", 0))
    others = {name: value for name, value in options.items() if name != "seed"}
    expected = model.generate(PROMPT, max_new_tokens=12, **others)
    assert streamed == expected[0, PROMPT.shape[1] :].tolist()
