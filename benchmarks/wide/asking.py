"""The client of a swarm on a wide-area network: runs on its own host, and times what it is asked to do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from benchmarks.wide.network import enter
from swarm.server.__main__ import SPIN_COUNT

COPIED = (
    "The lighthouse keeper wrote in his book every evening. The wind came from the north, the sea was rough, and no "
    "ship passed the island before midnight. He trimmed the lamp, counted the barrels of oil, and wrote the number "
    "down. In the morning the wind came from the west, the sea was calm, and three ships passed the island."
)
"""What the copy-heavy prompt asks to repeat."""


def load_client(namespace: str, addr: str, threads: int) -> Callable[..., dict[str, Any]]:
    """Go to the host at `namespace`, join the swarm at `addr`; return what generates."""
    enter(namespace)
    # The servers are on this machine too: our idle OpenMP threads must not spin on their cores.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    import torch

    from swarm.client import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(initial_peers=[addr])
    caches: list[Any] = []

    def run(name: str, **options: Any) -> dict[str, Any]:
        if name == "copy":
            return _copy(model, AutoTokenizer.from_pretrained(initial_peers=[addr]), **options)
        if name == "explain":
            return {"text": str(model.explain())}
        if options.pop("is_new", False) or not caches:
            caches[:] = [model.new_cache()]
        return _time(model, caches[0], **options)

    return lambda name, options: run(name, **options)


def _time(model: Any, cache: Any, *, prompt: list[int], new_tokens: int) -> dict[str, Any]:
    """Generate from a prompt over a cache's session: seconds to the first token, between tokens, and in the hops."""
    import torch
    from transformers.generation.streamers import BaseStreamer

    times: list[float] = []

    class Stopwatch(BaseStreamer):  # type: ignore[misc]
        def put(self, value: Any) -> None:
            times.append(time.perf_counter())

        def end(self) -> None:
            pass

    ids = torch.tensor([prompt])
    cache.rewind(ids, torch.ones_like(ids, dtype=torch.bool))
    before = 0 if cache.session is None else cache.session.num_results
    started = time.perf_counter()
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
    model.generate(ids, streamer=Stopwatch(), past_key_values=cache, **options)
    tokens = times[1:]  # the first entry is the prompt
    steps = list(cache.session.timings)[before - cache.session.num_results :]
    return {
        "first": tokens[0] - started,
        "gaps": [after - before for before, after in pairwise(tokens)],
        "steps": [
            {"tokens": step.tokens, "seconds": step.seconds, "compute": step.compute, "hops": len(step.hops)}
            for step in steps
        ],
    }


def _copy(model: Any, tokenizer: Any, *, new_tokens: int, lookup: int | None) -> dict[str, Any]:
    """Repeat a text, with or without drafts from the prompt."""
    asked = f"Repeat this text, word for word:\n\n{COPIED}"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
    )
    prompt = tokenizer(text, return_tensors="pt").input_ids
    options: dict[str, Any] = {} if lookup is None else {"prompt_lookup_num_tokens": lookup}
    started = time.perf_counter()
    ids = model.generate(prompt, max_new_tokens=new_tokens, do_sample=False, **options)[0, prompt.shape[1] :]
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "ids": ids.tolist(), "text": tokenizer.decode(ids)}
