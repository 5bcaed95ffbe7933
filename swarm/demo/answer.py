"""The demo's question and answer, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TextStreamer

from swarm.client import AutoModelForCausalLM, AutoTokenizer, SwarmForCausalLM
from swarm.demo.config import DemoConfig
from swarm.demo.processes import LocalSwarm


def answer(config: DemoConfig, local: LocalSwarm, tell: Callable[[str], None]) -> None:
    """Answer the prompt through the swarm; words go to stdout as they come, all else to `tell`."""
    tokenizer = AutoTokenizer.from_pretrained()
    model = AutoModelForCausalLM.from_pretrained(initial_peers=[local.addr])
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": config.prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    tell(f"\n> {config.prompt}\n")
    streamer, times = _streamer(tokenizer)
    started = time.monotonic()
    with model.inference_session():
        model.generate(prompt, max_new_tokens=config.max_new_tokens, do_sample=False, streamer=streamer)
    tell(_report(model, prompt.shape[1], started, times))


def _streamer(tokenizer: Any) -> tuple[Any, list[float]]:
    """A streamer that prints words as they come, and the times at which tokens came."""
    times: list[float] = []

    class Stopwatch(TextStreamer):
        def put(self, value: Any) -> None:
            times.append(time.monotonic())
            super().put(value)

    return Stopwatch(tokenizer, skip_prompt=True, skip_special_tokens=True), times


def _report(model: SwarmForCausalLM, prompt_tokens: int, started: float, times: list[float]) -> str:
    # The first entry is the prompt itself.
    tokens = times[1:]
    rate = (len(tokens) - 1) / (tokens[-1] - tokens[0]) if len(tokens) > 1 else 0.0
    return (
        f"\n{model.explain()}\n{len(tokens)} tokens, {rate:.1f} tokens/s, "
        f"first token {1e3 * (tokens[0] - started):.0f} ms after the prompt's {prompt_tokens} tokens"
    )
