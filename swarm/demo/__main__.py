"""`python -m swarm.demo`: start a bootstrap peer and servers, stream an answer, stop everything."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.cli import parse_flags, run_plain
from swarm.demo.config import DemoConfig
from swarm.demo.processes import LocalSwarm, local_swarm
from swarm.server.__main__ import SPIN_COUNT

if TYPE_CHECKING:
    from swarm.client import SwarmForCausalLM

MODEL = "smollm2-135m"
NUM_BLOCKS = 30


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    config = parse_flags(DemoConfig, argv, prog="python -m swarm.demo")
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # the servers share this machine with us
    return run_plain(_demo, config)


def even_spans(num_blocks: int, num_servers: int) -> list[str]:
    """Return `--blocks` values that share the blocks as evenly as whole numbers allow."""
    bounds = [index * num_blocks // num_servers for index in range(num_servers + 1)]
    return [f"{start}:{end}" for start, end in pairwise(bounds)]


def _demo(config: DemoConfig) -> None:
    spans = even_spans(NUM_BLOCKS, config.servers)
    _tell(f"starting a bootstrap peer and {config.servers} servers of {MODEL}, blocks {', '.join(spans)} ...")
    flags = ["--dtype", config.dtype, "--threads", str(config.threads)]
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="swarm-demo-") as logs,
        local_swarm(spans, model=MODEL, server_flags=flags, logs=Path(logs)) as local,
    ):
        _tell(f"all {NUM_BLOCKS} blocks are served after {time.monotonic() - started:.1f} s:")
        for ready in local.ready:
            _tell(f"  {ready['blocks']:>6}  {ready['addr']}")
        _answer(config, local)
        _tell("\nstopping ...")


def _answer(config: DemoConfig, local: LocalSwarm) -> None:
    # Heavy imports only now, while the servers were doing theirs nothing was lost.
    from swarm.client import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(initial_peers=[local.addr])
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": config.prompt}], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    _tell(f"\n> {config.prompt}\n")
    streamer, times = _streamer(tokenizer)
    started = time.monotonic()
    with model.inference_session():
        model.generate(prompt, max_new_tokens=config.max_new_tokens, do_sample=False, streamer=streamer)
    _report(model, prompt.shape[1], started, times)


def _streamer(tokenizer: Any) -> tuple[Any, list[float]]:
    """A streamer that prints words as they come, and the times at which tokens came."""
    from transformers import TextStreamer

    times: list[float] = []

    class Stopwatch(TextStreamer):
        def put(self, value: Any) -> None:
            times.append(time.monotonic())
            super().put(value)

    return Stopwatch(tokenizer, skip_prompt=True, skip_special_tokens=True), times


def _report(model: SwarmForCausalLM, prompt_tokens: int, started: float, times: list[float]) -> None:
    # The first entry is the prompt itself.
    tokens = times[1:]
    rate = (len(tokens) - 1) / (tokens[-1] - tokens[0]) if len(tokens) > 1 else 0.0
    _tell(f"\n{model.explain()}")
    _tell(
        f"{len(tokens)} tokens, {rate:.1f} tokens/s, "
        f"first token {1e3 * (tokens[0] - started):.0f} ms after the prompt's {prompt_tokens} tokens"
    )


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
