"""The scheduler: which of the waiting steps run next. Pure: no tensor, no clock, no thread.

Steps of one session run in order, so only the first of each can be chosen. There are two kinds. *Decodes* feed each
sequence a few tokens and somebody waits for them: all that are ready run in one batch, up to the session's share of the
pipeline: with a third of the sessions in each batch, three hops can work at the same time, where one batch of them all
would keep two idle. *Prefills* feed many tokens: what fits into a budget runs, a long one a part at a time.

Who is first: the client that was served least (a virtual counter for each, arXiv:2401.00588; who comes back from a
pause is lifted to the others' least, so that no claim is saved up). Among one client's: `priority`, then for prefills
the session that has had the fewest tokens of its prompt (arXiv:2305.05920, in steps of LEVEL_TOKENS and corrected by
how long it has waited), then who came first. So a long prompt holds up neither decodes nor short prompts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MAX_DECODE_LENGTH = 16
"""Tokens of one sequence in a step that still counts as a decode: a draft to be verified."""

MAX_DECODE_TOKENS = 1024
"""Of one batch of decodes: its activations shall not take much memory."""

DECODING_FOR = 1.0
"""Seconds after its last decode for which a session counts as decoding."""

LEVEL_TOKENS = 512
"""A prompt loses its turn to shorter ones each time it has had so many tokens."""

LEVEL_SECONDS = 2.0
"""Waiting so long makes up for LEVEL_TOKENS: no prompt waits for ever."""


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """A step that waits.

    Attributes:
        client: Whose it is.
        session: Which of his; unique among all clients' sessions.
        tokens: All of the step's.
        longest: Of one sequence of it.
        arrived_at: Monotonic seconds.
        priority: 0 is first.
        num_hops: Of the session's whole route.
        done: Tokens that have run.
    """

    client: Hashable
    session: Hashable
    tokens: int
    longest: int
    arrived_at: float
    priority: int = 0
    num_hops: int = 1
    done: int = 0

    @property
    def is_decode(self) -> bool:
        """Whether somebody waits for every such step."""
        return self.longest <= MAX_DECODE_LENGTH and self.tokens <= MAX_DECODE_TOKENS

    @property
    def tokens_left(self) -> int:
        """Tokens that have not run."""
        return self.tokens - self.done


E = TypeVar("E", bound=Entry)


@dataclass(slots=True)
class _Lane(Generic[E]):
    """One session's steps, and what it has had of its prompt."""

    client: Hashable
    waiting: deque[E] = field(default_factory=deque)
    prefilled: int = 0
    decoded_at: float = -math.inf
    num_hops: int = 1
    is_out: bool = False  # its first step was handed out and is not finished


class Scheduler(Generic[E]):
    """Holds waiting entries and hands them out; whoever gets one says `finish` or `put_back`."""

    def __init__(self) -> None:
        self._lanes: dict[Hashable, _Lane[E]] = {}
        self._served: dict[Hashable, int] = {}
        self._num_steps: dict[Hashable, int] = {}  # of each client that has some, waiting or handed out
        self._num_waiting = 0

    @property
    def num_waiting(self) -> int:
        """Steps that are neither handed out nor finished."""
        return self._num_waiting

    @property
    def num_ready(self) -> int:
        """Sessions of which a step could be handed out."""
        return len(self._ready())

    def add(self, entry: E) -> None:
        """Let a step wait behind those of its session."""
        lane = self._lanes.get(entry.session)
        if lane is None:
            lane = self._lanes[entry.session] = _Lane(entry.client)
        client = entry.client
        if client not in self._num_steps:
            least = min((self._served[other] for other in self._num_steps), default=0)
            self._served[client] = max(self._served.get(client, 0), least)
        self._num_steps[client] = self._num_steps.get(client, 0) + 1
        lane.waiting.append(entry)
        lane.num_hops = entry.num_hops
        self._num_waiting += 1

    def finish(self, entry: E) -> None:
        """The entry, handed out before, has run to its end or is given up."""
        client = entry.client
        self._num_steps[client] -= 1
        if not self._num_steps[client]:
            del self._num_steps[client]
        if (lane := self._lanes.get(entry.session)) is not None:
            lane.is_out = False

    def has_steps(self, session: Hashable) -> bool:
        """Whether a session has steps that wait, or one that is handed out."""
        lane = self._lanes.get(session)
        return lane is not None and (lane.is_out or bool(lane.waiting))

    def put_back(self, entry: E, *, unused: int = 0) -> None:
        """The entry, handed out before, is to go on later; its session must not have been dropped.

        Args:
            entry: Which one.
            unused: Tokens of what was handed out that did not run.
        """
        lane = self._lanes[entry.session]
        self._served[entry.client] -= unused
        lane.prefilled -= min(unused, lane.prefilled)
        lane.is_out = False
        lane.waiting.appendleft(entry)
        self._num_waiting += 1

    def drop(self, session: Hashable) -> list[E]:
        """Forget a session; return its steps that waited, to be finished as if they had been handed out."""
        lane = self._lanes.pop(session, None)
        if lane is None:
            return []
        self._num_waiting -= len(lane.waiting)
        present = self._num_steps.keys() | {other.client for other in self._lanes.values()}
        self._served = {client: served for client, served in self._served.items() if client in present}
        return list(lane.waiting)

    def is_decoding(self, now: float) -> bool:
        """Whether some session has decoded in the last second: it will want to go on at once."""
        return any(now - lane.decoded_at < DECODING_FOR for lane in self._lanes.values())

    def next_decodes(self, now: float) -> list[E]:
        """Hand out the decodes to be run in one batch; none if none is ready."""
        ready = [lane.waiting[0] for lane in self._ready() if lane.waiting[0].is_decode]
        if not ready:
            return []
        for entry in ready:
            self._lanes[entry.session].decoded_at = now
        limit = self._share(now) if len(ready) > 1 else 1
        taken: list[E] = []
        tokens = 0
        for entry in self._in_turn(ready, lambda entry: (entry.priority, entry.arrived_at)):
            tokens += entry.tokens
            if taken and (len(taken) >= limit or tokens > MAX_DECODE_TOKENS):
                break
            self._hand_out(entry, entry.tokens)
            taken.append(entry)
        return taken

    def next_prefills(self, budget: int, now: float, *, fill: int = 1 << 30) -> list[tuple[E, int]]:
        """Hand out prefills with the number of tokens to run of each; none if none is ready.

        Args:
            budget: Most tokens in all.
            now: Monotonic seconds.
            fill: So many tokens are enough company: with as many, no further session joins.
        """
        ready = [lane.waiting[0] for lane in self._ready() if not lane.waiting[0].is_decode]
        taken: list[tuple[E, int]] = []
        least = budget - fill
        for entry in self._in_turn(ready, lambda entry: self._prefill_order(entry, now)):
            if budget <= max(0, least):
                break
            tokens = min(budget, entry.tokens_left)
            self._hand_out(entry, tokens)
            self._lanes[entry.session].prefilled += tokens
            taken.append((entry, tokens))
            budget -= tokens
        return taken

    def _in_turn(self, ready: list[E], order: Callable[[E], tuple[float, ...]]) -> Iterator[E]:
        """Yield entries, each from the client who was served least by then; his own by `order`."""
        queues: dict[Hashable, list[E]] = {}
        for entry in ready:
            queues.setdefault(entry.client, []).append(entry)
        for queue in queues.values():
            queue.sort(key=order)
            queue.reverse()  # to pop the first; of equals, who came first
        while queues:
            client = min(queues, key=lambda client: self._served[client]) if len(queues) > 1 else next(iter(queues))
            yield queues[client].pop()
            if not queues[client]:
                del queues[client]

    def _ready(self) -> list[_Lane[E]]:
        return [lane for lane in self._lanes.values() if lane.waiting and not lane.is_out]

    def _hand_out(self, entry: E, tokens: int) -> None:
        lane = self._lanes[entry.session]
        lane.waiting.popleft()
        lane.is_out = True
        if entry.is_decode:
            lane.prefilled = 0
        self._served[entry.client] += tokens
        self._num_waiting -= 1

    def _share(self, now: float) -> int:
        """Sessions of a batch such that as many batches are under way as a route has hops."""
        decoding = (lane for lane in self._lanes.values() if now - lane.decoded_at < DECODING_FOR)
        return math.ceil(sum(1 / lane.num_hops for lane in decoding) - 1e-9)

    def _prefill_order(self, entry: E, now: float) -> tuple[int, int, float]:
        waited = int((now - entry.arrived_at) / LEVEL_SECONDS)
        return entry.priority, self._lanes[entry.session].prefilled // LEVEL_TOKENS - waited, entry.arrived_at
