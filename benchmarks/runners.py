"""What is compared, each in a process of its own, so that neither's threads disturb the other.

A runner process loads a model once and then runs tasks that it is sent, one at a time; while one runs, the others wait
on a pipe.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

from swarm.server.__main__ import SPIN_COUNT


@dataclass(frozen=True)
class Timed:
    """One generation.

    Attributes:
        first: Seconds from the call to the first token.
        gaps: Seconds between tokens after it.
        overheads: Per decode step, seconds per hop beside compute; empty for a local model.
    """

    first: float
    gaps: list[float]
    overheads: list[float] = field(default_factory=list)


Generate = Callable[[list[int], int], Timed]


class Runner:
    """The parent's end of a runner process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def run(self, *task: Any) -> Any:
        """Call what the process has loaded; return what it returns."""
        self._pipe.send(task)
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextmanager
def runner(load: Callable[..., Callable[..., Any]], *args: Any) -> Iterator[Runner]:
    """Start a process that calls `load(*args)` and then what it returns, for each `run`."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_serve, args=(theirs, load, args), daemon=True)
    process.start()
    try:
        if isinstance(answer := ours.recv(), Exception):
            raise answer
        yield Runner(ours)
    finally:
        ours.send(None)
        process.join(timeout=30)
        process.kill()


def _serve(pipe: Connection, load: Callable[..., Callable[..., Any]], args: tuple[Any, ...]) -> None:
    try:
        generate = load(*args)
        pipe.send("loaded")
        while (task := pipe.recv()) is not None:
            pipe.send(generate(*task))
    except Exception as error:  # the parent decides; a traceback here would only be noise
        pipe.send(error)


def load_local(dtype: str, threads: int) -> Generate:
    """The bundled model in plain transformers, dequantised to dense weights."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    from swarm.blocks import open_checkpoint

    torch.set_num_threads(threads)
    path = open_checkpoint("smollm2-135m").path
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=getattr(torch, dtype),
        quantization_config=GgufConfig(dequantize=True),
    ).eval()
    return lambda prompt, new_tokens: _time(model, prompt, new_tokens)


def load_swarm(addr: str, dtype: str, threads: int) -> Generate:
    """The same model through the swarm that is reached at `addr`."""
    # The servers are on this machine too: our idle OpenMP threads must not spin on their cores.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    import torch

    from swarm.client import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(initial_peers=[addr], dtype=dtype)

    def generate(prompt: list[int], new_tokens: int) -> Timed:
        cache = model.new_cache()
        timed = _time(model, prompt, new_tokens, past_key_values=cache)
        assert cache.session is not None
        decode = [step for step in cache.session.timings if step.tokens == 1]
        overheads = [(step.seconds - step.compute) / len(step.hops) for step in decode]
        return Timed(timed.first, timed.gaps, overheads)

    return generate


def _time(model: Any, prompt: list[int], new_tokens: int, **options: Any) -> Timed:
    import torch
    from transformers.generation.streamers import BaseStreamer

    times: list[float] = []

    class Stopwatch(BaseStreamer):  # type: ignore[misc]
        def put(self, value: Any) -> None:
            times.append(time.perf_counter())

        def end(self) -> None:
            pass

    started = time.perf_counter()
    model.generate(
        torch.tensor([prompt]),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        streamer=Stopwatch(),
        **options,
    )
    tokens = times[1:]  # the first entry is the prompt
    return Timed(tokens[0] - started, [after - before for before, after in pairwise(tokens)])
