"""A swarm in memory whose text depends on every token that its hops hold, and that fails on demand.

Activations carry token ids; what comes back is a digest of the whole sequence, which the head turns into the next
token. So a token that was lost, doubled or misplaced on the way changes the text.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import LlamaConfig

from swarm.blocks import PAGE_SLOTS
from swarm.client import ClientConfig, SwarmForCausalLM
from swarm.client.bridge import bridge
from swarm.client.legs import Leg
from swarm.client.opening import Model, Wanted
from swarm.client.prefixes import KnownPrefixes, filled_pages
from swarm.client.session import Session
from swarm.client.splicing import Pending
from swarm.client.step_run import StepRun
from swarm.errors import SwarmError, SwarmUnreachable, TokenOutOfRange
from swarm.planning import Agreement
from swarm.types import Hop, PeerId, Span, View
from swarm.wire import Close, Find, Found, Message, Open, Opened, Result, Step
from swarm.wire.codecs import decode_tensor, encode_tensor
from swarm.wire.encoding import error_of
from swarm.wire.limits import HASH_BYTES
from swarm.wire.rows import Timing
from tests.fake_wire import End, join
from tests.planning.views import record, view

VOCABULARY, WIDTH, CONTEXT = 97, 2, 256
END = 96
"""No digest: no text ends by itself."""


def digest(tokens: Sequence[int]) -> int:
    value = 7
    for token in tokens:
        value = (value * 31 + token + 1) % 1_000_003
    return value % (VOCABULARY - 1)


def text_after(prompt: Sequence[int], count: int) -> list[int]:
    """Return the tokens that greedy generation must give."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(digest(tokens))
    return tokens[len(prompt) :]


class DigestEnds:
    """What `ModelEnds` does, for these activations."""

    dtype = torch.float32

    def __init__(self) -> None:
        shape = {"hidden_size": WIDTH, "vocab_size": VOCABULARY, "num_blocks": 4, "context_length": CONTEXT}
        self.config = SimpleNamespace(**shape)

    def embed(self, ids: Tensor) -> Tensor:
        if bool(((ids >= VOCABULARY) | (ids < 0)).any()):
            raise TokenOutOfRange("no such token")
        return torch.stack([ids, torch.zeros_like(ids)], -1).float()

    def place(self, embeds: Tensor, positions: Tensor) -> Tensor:
        return embeds

    def logits(self, hidden: Tensor) -> Tensor:
        distance = (torch.arange(VOCABULARY) - hidden[..., :1]).abs()
        return -distance * 0.5


class DigestSwarm:
    """Hops that keep sequences, and what a model needs of a `Connection`.

    Attributes:
        sessions: All that were opened, as the hops see them.
        fails: Asked for each step; what it returns is told instead of a result.
        is_silent: Steps get no answer.
        is_alone: The directory cannot be reached.
        missing: Why no session is opened.
        ended: Why we are in the swarm no more.
        found: For each hop the pages that it keeps: by lineage and hash.
        asked: Finds that came, of all hops.
        num_tokens: That were computed at the first hop.
    """

    def __init__(self, num_hops: int = 2, **options: Any) -> None:
        self.config = ClientConfig(initial_peers=("x",), chunk_tokens=8, **options)
        self.prefixes: KnownPrefixes | None = KnownPrefixes()
        self.num_hops = num_hops
        self.sessions: list[Held] = []
        self.fails: Any = lambda step: None
        self.is_silent = False
        self.is_alone = False
        self.missing: SwarmError | None = None
        self.ended: SwarmError | None = None
        self.found: list[set[tuple[bytes, bytes]]] = [set() for _ in range(num_hops)]
        self.asked: list[Find] = []
        self.num_tokens = 0
        self._ours: dict[bytes, Session] = {}

    def model(self) -> SwarmForCausalLM:
        ends = cast(Any, DigestEnds())
        config = LlamaConfig(vocab_size=VOCABULARY, eos_token_id=END, pad_token_id=None, bos_token_id=1)
        model = Model(name="digest", fingerprint="f", hidden_size=WIDTH)
        ours = SwarmForCausalLM(config, ends=ends, model=model, connection=cast(Any, self))
        ours.generation_config.eos_token_id = END
        return ours

    @property
    def num_open(self) -> int:
        return sum(not held.is_closed for held in self.sessions)

    async def open_session(self, model: Model, span: Span, wanted: Sequence[Wanted] = ()) -> Session:
        if self.missing is not None:
            raise self.missing
        hops = [Hop(PeerId(f"hop{index}"), index, index + 1) for index in range(self.num_hops)]
        pairs = [join("client", hop.peer) for hop in hops]
        legs = [Leg(hop, near.as_channel(), ()) for hop, (near, _) in zip(hops, pairs, strict=True)]
        session = Session(legs, model, "float32", self.config)
        held = Held(self, [far for _, far in pairs])
        self._ours[session.session_id] = session
        self.sessions.append(held)
        for index, (near, far) in enumerate(pairs):
            near.receiver, far.receiver = self, HopEnd(held, index)
        try:
            await session.open(wanted)
        except BaseException:
            self.forget(session)
            raise
        return session

    async def step(self, session: Session, *words: Any) -> Tensor:
        return await StepRun(session, *words).go_on()

    @property
    def mender(self) -> DigestSwarm:
        return self

    async def mend(self, session: Session, error: SwarmError, pending: Pending) -> None:
        """There are no other hops."""
        raise error

    @property
    def routes(self) -> DigestSwarm:
        return self

    async def agreement(self, model: Model) -> Agreement:
        """Return servers of all blocks, if sessions can be opened."""
        if self.is_alone:
            raise SwarmUnreachable("looking took too long")
        return Agreement(view() if self.missing else view(record("hop0", 0, 2), record("hop1", 2, 4)), ())

    async def view(self, model: Model) -> View:
        """Return those servers, as long as we are in the swarm."""
        if self.ended is not None:
            raise self.ended
        return (await self.agreement(model)).view

    async def advise(self, model: Model, hops: tuple[Hop, ...]) -> tuple[list[float], str]:
        """Return what the legs of a route should take, each a second, and no advice."""
        if self.is_alone:
            raise SwarmUnreachable("looking took too long")
        return [1.0] * (len(hops) + 1), ""

    def forget(self, session: Session) -> None:
        session.close()
        self._ours.pop(session.session_id, None)

    def received(self, channel: End, message: Any, body: bytearray) -> None:
        if (session := self._ours.get(message.session)) is not None:
            session.received(channel.as_channel(), message, body)

    def closed(self, channel: End, reason: Exception | None) -> None:
        for session in self._ours.values():
            session.lost(channel.as_channel(), reason)


class Held:
    """A session as the hops see it."""

    def __init__(self, swarm: DigestSwarm, ends: list[End]) -> None:
        self.swarm = swarm
        self.ends = ends
        self.sequences: dict[int, list[int]] = {}
        self.lineages: dict[int, bytes] = {}
        self.closed_at: set[int] = set()
        self.steps: list[Step] = []
        self.opened: Open | None = None

    @property
    def is_closed(self) -> bool:
        return len(self.closed_at) == len(self.ends)

    def run(self, step: Step, body: bytearray) -> None:
        swarm = self.swarm
        self.steps.append(step)
        error: SwarmError | None = swarm.fails(step)
        if swarm.is_silent:
            return
        if error is not None:
            self.ends[0].send(error_of(error, session=step.session, step=step.step))
            return
        total = sum(row.length for row in step.rows)
        swarm.num_tokens += total
        hidden = decode_tensor(body, step.codec, tokens=total, hidden_size=WIDTH)
        outputs = [[float(value), 0.0] for row in step.rows for value in self._outputs(row, hidden, step)]
        self._keep(step)
        output = torch.tensor(outputs).view(-1, WIDTH)
        result = Result(step.session, step.step, step.codec, len(output), Timing(10, 20, 40).packed() * len(self.ends))
        self.ends[-1].send(result, encode_tensor(output, step.codec))

    def _outputs(self, row: Any, hidden: Tensor, step: Step) -> Iterator[int]:
        start = sum(other.length for other in step.rows[: step.rows.index(row)])
        tokens = self.sequences.get(row.source, [])
        assert row.position <= len(tokens), "a gap"
        tokens = tokens[: row.position]
        for index in range(row.length):
            tokens.append(int(hidden[start + index, 0]))
            if index >= row.length - row.keep:
                yield digest(tokens)
        self.sequences[row.sequence] = tokens

    def _keep(self, step: Step) -> None:
        marks = [step.marks[i : i + HASH_BYTES] for i in range(0, len(step.marks), HASH_BYTES)]
        pages = [(row, page) for row in step.rows for page in filled_pages(row.position, row.length)]
        assert not marks or len(marks) == len(pages)
        for (row, page), mark in zip(pages, marks, strict=False):
            tokens = self.sequences[row.sequence][: (page + 1) * PAGE_SLOTS]
            for index in range(len(self.ends)):
                self.swarm.found[index].add((self.lineages[index], mark))
            KEPT[mark] = tokens


KEPT: dict[bytes, list[int]] = {}
"""The tokens behind a page's hash."""


class HopEnd:
    """Receives what one hop is sent."""

    def __init__(self, held: Held, index: int) -> None:
        self._held, self._index = held, index

    def received(self, channel: End, message: Message, body: bytearray) -> None:
        held = self._held
        match message:
            case Open():
                held.lineages[self._index] = message.lineage
                held.opened = message
                channel.send(Opened(message.session, 1))
            case Find():
                held.swarm.asked.append(message)
                channel.send(Found(message.session, message.sequence, self._find(message)))
            case Step():
                held.run(message, body)
            case Close():
                held.closed_at.add(self._index)

    def _find(self, message: Find) -> int:
        held, count = self._held, 0
        for start in range(0, len(message.hashes), HASH_BYTES):
            mark = message.hashes[start : start + HASH_BYTES]
            if (held.lineages[self._index], mark) not in held.swarm.found[self._index]:
                break
            count += 1
            held.sequences[message.sequence] = list(KEPT[mark])
        return count * PAGE_SLOTS

    def closed(self, channel: End, reason: Exception | None) -> None:
        pass


@contextmanager
def on_bridge(swarm: DigestSwarm) -> Iterator[DigestSwarm]:
    """Check at the end that every session was closed on every hop."""
    yield swarm
    gc.collect()  # a cache closes its session when it is gone

    async def wait_closed() -> bool:
        for _ in range(200):
            if not swarm.num_open:
                return True
            await asyncio.sleep(0.005)
        return False

    assert bridge().run(wait_closed()), f"{swarm.num_open} of {len(swarm.sessions)} sessions are still open"
