"""The ways to a text: each may be hurt while it is under way, and is to give the tokens that it gives undisturbed."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from swarm.client import SwarmForCausalLM

NEW_TOKENS = 18
OPTIONS: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
TURNS = 3
NUM_STREAMS = 4
PREFILL_SECONDS = 0.03
"""After so long a prompt of some hundred tokens is on its way."""

Texts = list[list[int]]
OnStep = Callable[[int], None]


@dataclass
class Steps:
    """Counts the steps of a text, and calls at some of them; at step 0 soon after the start, in the prefill.

    Attributes:
        times: When each step was there.
        failovers: For each stream how often its hops were replaced, as it tells after its end.
    """

    calls: dict[int, Callable[[], None]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    failovers: list[int] = field(default_factory=list)

    def begin(self) -> None:
        """The prompt is about to be sent."""
        if 0 in self.calls:
            threading.Timer(PREFILL_SECONDS, self.calls.pop(0)).start()

    def step(self) -> None:
        """A token is there, or one of each text of a batch."""
        self.times.append(time.monotonic())
        if (call := self.calls.pop(len(self.times), None)) is not None:
            call()

    def pause(self) -> float:
        """Return the longest time between two steps."""
        return max((after - before for before, after in pairwise(self.times)), default=0.0)


def stream(model: SwarmForCausalLM, prompts: Texts, steps: Steps) -> Texts:
    """One stream."""
    return streams(model, prompts[:1], steps)


def streams(model: SwarmForCausalLM, prompts: Texts, steps: Steps) -> Texts:
    """Several streams at once."""

    async def one(prompt: list[int]) -> list[int]:
        tokens = []
        stream = model.stream(prompt, **OPTIONS)
        async for token in stream:
            tokens.append(token)
            steps.step()
        steps.failovers.append(stream.explain().num_failovers)
        return tokens

    async def all_of_them() -> Texts:
        return list(await asyncio.gather(*(one(prompt) for prompt in prompts)))

    steps.begin()
    return asyncio.run(all_of_them())


def generate(model: SwarmForCausalLM, prompts: Texts, steps: Steps, **options: Any) -> Texts:
    """One text by `generate`."""
    return batch(model, prompts[:1], steps, **options)


def beams(model: SwarmForCausalLM, prompts: Texts, steps: Steps) -> Texts:
    """One text by beam search: the servers fork its sequences at each step."""
    return generate(model, prompts, steps, num_beams=3)


def batch(model: SwarmForCausalLM, prompts: Texts, steps: Steps, **options: Any) -> Texts:
    """Several texts of different lengths in one call, padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    steps.begin()
    made = model.generate(ids, attention_mask=mask, logits_processor=_counting(steps), **OPTIONS, **options)
    return [row.tolist() for row in made[:, longest:]]


def session(model: SwarmForCausalLM, prompts: Texts, steps: Steps) -> Texts:
    """A conversation of several turns in one session; each turn adds what the user says to what was made."""
    told: Texts = []
    ids = torch.tensor([prompts[0]])
    options = {**OPTIONS, "max_new_tokens": NEW_TOKENS // TURNS, "min_new_tokens": NEW_TOKENS // TURNS}
    steps.begin()
    with model.inference_session():
        for turn in range(TURNS):
            mask = torch.ones_like(ids)
            made = model.generate(ids, attention_mask=mask, logits_processor=_counting(steps), **options)
            told.append(made[0, ids.shape[1] :].tolist())
            ids = torch.cat([made, torch.tensor([prompts[-1][turn : turn + 5]])], dim=1)
    return told


def clients(model: SwarmForCausalLM, prompts: Texts, steps: Steps) -> Texts:
    """Several threads, each with a text of its own; two are in `generate`, one reads a stream."""
    made: dict[int, Texts] = {}
    faults: list[BaseException] = []

    def one(index: int, way: Callable[[SwarmForCausalLM, Texts, Steps], Texts]) -> None:
        try:
            made[index] = way(model, prompts[index : index + 1], steps if index == 0 else Steps())
        except BaseException as fault:
            faults.append(fault)

    ways = (generate, stream, generate)
    threads = [threading.Thread(target=one, args=(index, way)) for index, way in enumerate(ways)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return [text for index in sorted(made) for text in made[index]]


WAYS = {way.__name__: way for way in (stream, streams, generate, beams, batch, session, clients)}

SPECIAL = ("beams", "session")
"""Ways to texts of their own; all others give the likeliest next tokens of each prompt, of as many as they read."""


def prompts_of(seed: int, vocabulary: int, count: int = NUM_STREAMS) -> Texts:
    """Return prompts of different lengths, of some pages; one of them is longer than a chunk."""
    rng = random.Random(seed)
    lengths = [150, *(rng.randint(40, 120) for _ in range(count - 1))]
    return [[rng.randrange(vocabulary // 40, vocabulary) for _ in range(length)] for length in lengths]


def _counting(steps: Steps) -> list[Callable[[Tensor, Tensor], Tensor]]:
    def count(ids: Tensor, scores: Tensor) -> Tensor:
        steps.step()
        return scores

    return [count]


def within(seconds: float, call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and its seconds, or raise what it raises; fail if it takes longer than that."""
    return together(seconds, [call])[0]


def together(seconds: float, calls: Sequence[Callable[[], Any]]) -> list[tuple[Any, float]]:
    """Run calls at once; return what each returned, or the error of ours that it raised, and its seconds.

    Raises:
        BaseException: What a call raised, if there is only one.
        AssertionError: One of them takes longer than `seconds`.
    """
    began = time.monotonic()
    ended: dict[int, tuple[Any, float]] = {}

    def run(index: int, call: Callable[[], Any]) -> None:
        try:
            result = call()
        except BaseException as fault:
            result = fault
        ended[index] = result, time.monotonic() - began

    threads = [
        threading.Thread(target=run, args=(index, call), name=f"call {index}", daemon=True)
        for index, call in enumerate(calls)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, began + seconds - time.monotonic()))
    hanging = [index for index in range(len(calls)) if index not in ended]
    assert not hanging, f"calls {hanging} of {len(calls)} have not ended after {seconds:.0f} s"
    if len(calls) == 1 and isinstance(fault := ended[0][0], BaseException):
        raise fault
    return [ended[index] for index in range(len(calls))]
