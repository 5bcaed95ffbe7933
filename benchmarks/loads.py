"""Loads on a swarm: sessions without a head, streams all at once, users in a closed loop or arriving at random.

Each runs in the client's process (`benchmarks.runners.runner`) and returns plain figures: seconds and counts.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from swarm.server.__main__ import SPIN_COUNT

VOCABULARY = 49152
NO_TOKEN = 49151
"""A token that the bundled model has no use for: as the end of a text it makes answers exactly as long as asked."""

PROMPT_LENGTHS, ANSWER_LENGTHS = (16, 512), (32, 128)
"""Of the mixed loads; uniform between."""


@dataclass
class Measured:
    """What a load saw.

    Attributes:
        seconds: From the first request to the last token.
        prompt_tokens: Of all requests.
        tokens: New ones.
        firsts: Seconds to each request's first token.
        gaps: Seconds between tokens after it.
        decode_seconds: From the last request's first token to the end, of loads that begin together.
        decode_tokens: New tokens in that time.
        begun: When each request had its first token.
        arrivals: When each token came.
    """

    seconds: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    firsts: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    decode_seconds: float = 0.0
    decode_tokens: int = 0
    begun: list[float] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)


def load_client(addr: str, threads: int) -> Callable[..., dict[str, Any]]:
    """Join the swarm at `addr`; return what runs a load by name."""
    # The servers are on this machine too: our idle OpenMP threads must not spin on their cores.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    import torch

    from swarm.client import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(initial_peers=[addr])
    loads: dict[str, Callable[..., Any]] = {"burst": burst, "closed": closed, "poisson": poisson, "beside": beside}

    def run(name: str, options: dict[str, Any]) -> dict[str, Any]:
        if name == "hidden":
            return asdict(asyncio.run(hidden(addr, **options)))
        result = asyncio.run(loads[name](model, **options))
        return result if isinstance(result, dict) else asdict(result)

    return run


async def hidden(addr: str, *, sessions: int, prompt: int, steps: int) -> Measured:
    """Servers alone: sessions that are stepped with hidden states, at once; only decoding is timed."""
    import torch

    from swarm.blocks import open_checkpoint
    from swarm.client.config import ClientConfig
    from swarm.client.connection import Connection
    from swarm.client.opening import Model
    from swarm.types import Span
    from swarm.wire import Row

    checkpoint = open_checkpoint("smollm2-135m")
    size = checkpoint.config.hidden_size
    model = Model(name=checkpoint.name, fingerprint=checkpoint.fingerprint, hidden_size=size, dtype="torch.bfloat16")
    connection = Connection(ClientConfig(initial_peers=(addr,)))
    await connection.start()
    measured = Measured(prompt_tokens=sessions * prompt, tokens=sessions * steps)
    try:
        opened = [await connection.open_session(model, Span(0, checkpoint.config.num_blocks)) for _ in range(sessions)]
        tokens = torch.randn(prompt, size).to(torch.bfloat16)
        await asyncio.gather(*(connection.step(session, [Row(0, 0, 0, prompt, 1)], tokens) for session in opened))

        async def decode(session: Any) -> None:
            for position in range(prompt, prompt + steps):
                began = time.perf_counter()
                await connection.step(session, [Row(0, 0, position, 1, 1)], tokens[:1])
                measured.gaps.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(decode(session) for session in opened))
        measured.seconds = measured.decode_seconds = time.perf_counter() - began
        measured.decode_tokens = measured.tokens
    finally:
        await connection.close()
    return measured


async def burst(model: Any, *, sessions: int, prompt: int, new_tokens: int, seed: str) -> Measured:
    """Streams that begin together, all alike."""
    dice, measured = random.Random(seed), Measured()
    began = time.perf_counter()
    await asyncio.gather(*(_stream(model, measured, prompt, new_tokens, dice) for _ in range(sessions)))
    measured.seconds = time.perf_counter() - began
    all_decode = max(measured.begun)
    measured.decode_seconds = began + measured.seconds - all_decode
    measured.decode_tokens = sum(moment > all_decode for moment in measured.arrivals)
    return measured


async def closed(model: Any, *, sessions: int, requests: int, seed: str) -> Measured:
    """So many users, each of whom asks again as soon as he is answered; prompts and answers of mixed lengths."""
    dice, measured = random.Random(seed), Measured()
    left = requests

    async def user() -> None:
        nonlocal left
        while left:
            left -= 1
            await _stream(model, measured, dice.randint(*PROMPT_LENGTHS), dice.randint(*ANSWER_LENGTHS), dice)

    began = time.perf_counter()
    await asyncio.gather(*(user() for _ in range(sessions)))
    measured.seconds = time.perf_counter() - began
    return measured


async def poisson(model: Any, *, per_second: float, requests: int, seed: str) -> Measured:
    """Requests that arrive at random, however many are under way; prompts and answers of mixed lengths."""
    dice, measured = random.Random(seed), Measured()
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(requests):
            lengths = dice.randint(*PROMPT_LENGTHS), dice.randint(*ANSWER_LENGTHS)
            tasks.create_task(_stream(model, measured, *lengths, dice))
            await asyncio.sleep(dice.expovariate(per_second))
    measured.seconds = time.perf_counter() - began
    return measured


async def beside(model: Any, *, sessions: int, long: int, seed: str) -> dict[str, Any]:
    """A long prompt alone, sessions that decode alone, then both together."""
    dice, quiet, busy = random.Random(seed), Measured(), Measured()
    alone, together = Measured(), Measured()
    await _stream(model, alone, long, 1, dice)
    tasks = [asyncio.create_task(_stream(model, quiet, 40, 2000, dice, later=busy)) for _ in range(sessions)]
    while len(quiet.gaps) < 60 * sessions:  # noqa: ASYNC110 - they run by themselves, this only looks on
        await asyncio.sleep(0.01)
    busy.firsts.append(0.0)  # from now on gaps count there
    await _stream(model, together, long, 1, dice)
    busy.seconds = sum(together.firsts)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "quiet_gaps": quiet.gaps[10 * sessions :],
        "busy_gaps": busy.gaps,
        "alone_seconds": alone.firsts[0],
        "together_seconds": together.firsts[0],
    }


async def _stream(
    model: Any, measured: Measured, prompt: int, new_tokens: int, dice: random.Random, *, later: Measured | None = None
) -> None:
    """Run one request; once `later` has begun, its gaps count there."""
    ids = [dice.randrange(100, VOCABULARY - 1) for _ in range(prompt)]
    last = time.perf_counter()
    is_first = True
    async for _ in model.stream(ids, max_new_tokens=new_tokens, do_sample=False, eos_token_id=NO_TOKEN):
        now = time.perf_counter()
        if is_first:
            measured.firsts.append(now - last)
            measured.begun.append(now)
        else:
            (later if later is not None and later.firsts else measured).gaps.append(now - last)
        last, is_first = now, False
        measured.tokens += 1
        measured.arrivals.append(now)
    measured.prompt_tokens += prompt


def load_local_batch(threads: int) -> Callable[..., dict[str, Any]]:
    """Plain transformers in bfloat16; returns what generates a batch of equal prompts' lengths."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    from swarm.blocks import open_checkpoint

    torch.set_num_threads(threads)
    path = open_checkpoint("smollm2-135m").path
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    ).eval()

    def run(name: str, options: dict[str, Any]) -> dict[str, Any]:
        dice, batch, new_tokens = random.Random(options["seed"]), options["sessions"], options["new_tokens"]
        ids = torch.tensor(
            [[dice.randrange(100, VOCABULARY - 1) for _ in range(options["prompt"])] for _ in range(batch)]
        )
        began = time.perf_counter()
        with torch.no_grad():
            model.generate(ids, max_new_tokens=new_tokens, do_sample=False, eos_token_id=NO_TOKEN, pad_token_id=2)
        seconds = time.perf_counter() - began
        return asdict(Measured(seconds=seconds, prompt_tokens=ids.numel(), tokens=batch * new_tokens))

    return run
