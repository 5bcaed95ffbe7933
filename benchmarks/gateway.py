"""Many streams through the gateway, beside the same streams in one process of the library.

Bar, with three servers of one thread each on two cores, int4: 16 streams by HTTP, whose readers are another process,
reach at least 70 % of the tokens/s that 16 streams of `model.stream()` reach in the same run, prompts included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.loads import VOCABULARY, Measured, load_client
from benchmarks.report import conditions, table, write_json
from benchmarks.runners import Runner, runner
from swarm.demo.__main__ import even_spans
from swarm.demo.processes import Process, local_swarm

NUM_BLOCKS = 30
PROMPT, NEW_TOKENS = 40, 64
BAR = 0.7
"""Share of the library's tokens/s."""

MODEL = "smollm2-135m"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if the bar holds, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gateway", description=__doc__)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--quant", default="int4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--client", choices=["aiohttp", "openai"], default="aiohttp", help="what reads the streams")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    result: dict[str, Any] = {"conditions": conditions(), "arguments": vars(args)}
    flags = ["--quant", args.quant, "--threads", "1"]
    with (
        tempfile.TemporaryDirectory() as logs,
        local_swarm(even_spans(NUM_BLOCKS, args.servers), server_flags=flags, logs=Path(logs)) as swarm,
        runner(load_client, swarm.addr, 1) as library,
    ):
        words = ["swarm.gateway", "--initial-peers", swarm.addr, "--port", "0", "--threads", "1"]
        gateway = Process.start(*words, log=Path(logs) / "gateway.log")
        try:
            url = gateway.wait_ready()["url"]
            with runner(load_readers, url, args.client) as readers:
                result |= _measure(args, library, readers)
        finally:
            gateway.stop()
    print(_text(result))
    write_json(args.json, result)
    return 0 if result["holds"] else 1


def _measure(args: argparse.Namespace, library: Runner, readers: Runner) -> dict[str, Any]:
    rounds: dict[str, list[dict[str, Any]]] = {"library": [], "gateway": []}
    for index in range(-1, args.rounds):  # the first one warms up
        for name, who in (("library", library), ("gateway", readers)):
            alike = {"sessions": args.sessions, "prompt": PROMPT, "new_tokens": NEW_TOKENS, "seed": f"{name} {index}"}
            measured = who.run("burst", alike)
            print(f"{name:>8} {index}: {measured['tokens'] / measured['seconds']:.0f} tokens/s", file=sys.stderr)
            if index >= 0:
                rounds[name].append(measured)
    rates = {name: [run["tokens"] / run["seconds"] for run in runs] for name, runs in rounds.items()}
    share = median(ours / theirs for ours, theirs in zip(rates["gateway"], rates["library"], strict=True))
    firsts = {name: median(value for run in runs for value in run["firsts"]) for name, runs in rounds.items()}
    return {"tokens_per_s": rates, "first_s": firsts, "share": share, "holds": share >= BAR}


def _text(result: dict[str, Any]) -> str:
    args, rows = result["arguments"], []
    for name, rates in result["tokens_per_s"].items():
        rows.append([name, f"{median(rates):.0f}", f"{min(rates):.0f}-{max(rates):.0f}", _ms(result["first_s"][name])])
    facts = ", ".join(f"{key} {value}" for key, value in result["conditions"].items())
    bar = f"{'ok  ' if result['holds'] else 'MISS'} share of the library's tokens/s: {result['share']:.2f} (bar {BAR})"
    how = (
        f"{args['sessions']} streams at once, prompts of {PROMPT}, {NEW_TOKENS} new tokens, {args['servers']} servers, "
    )
    how += f"{args['quant']}, {args['rounds']} rounds, alternating; read by {args['client']}"
    return "\n".join([table(["through", "tokens/s", "range", "first token"], rows), "", bar, "", f"{how}; {facts}"])


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms"


def load_readers(url: str, client: str) -> Callable[..., dict[str, Any]]:
    """Return what reads many streams of the gateway at `url` at once, in the form of `benchmarks.loads`."""
    read = {"aiohttp": _read_plain, "openai": _read_openai}[client]

    def run(name: str, options: dict[str, Any]) -> dict[str, Any]:
        return asdict(asyncio.run(_burst(read, url, **options)))

    return run


Read = Callable[[str, dict[str, Any], Measured], Any]


async def _burst(read: Read, url: str, *, sessions: int, prompt: int, new_tokens: int, seed: str) -> Measured:
    dice, measured = random.Random(seed), Measured(prompt_tokens=sessions * prompt)
    bodies = [
        {
            "model": MODEL,
            "prompt": [dice.randrange(100, VOCABULARY - 1) for _ in range(prompt)],
            "max_tokens": new_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
        }
        for _ in range(sessions)
    ]
    began = time.perf_counter()
    await asyncio.gather(*(read(url, body, measured) for body in bodies))
    measured.seconds = time.perf_counter() - began
    assert measured.tokens == sessions * new_tokens
    return measured


async def _read_plain(url: str, body: dict[str, Any], measured: Measured) -> None:
    import aiohttp

    began, is_first = time.perf_counter(), True
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if is_first:
                measured.firsts.append(time.perf_counter() - began)
                is_first = False
            if b'"choices":[]' in line:
                measured.tokens += json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"]


async def _read_openai(url: str, body: dict[str, Any], measured: Measured) -> None:
    from openai import AsyncOpenAI

    began, is_first = time.perf_counter(), True
    options = {name: value for name, value in body.items() if name != "ignore_eos"}
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        async for chunk in await client.completions.create(**options, extra_body={"ignore_eos": True}):
            if is_first:
                measured.firsts.append(time.perf_counter() - began)
                is_first = False
            if chunk.usage is not None:
                measured.tokens += chunk.usage.completion_tokens


if __name__ == "__main__":
    sys.exit(main())
