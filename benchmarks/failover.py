"""Servers on the route are killed or frozen: does the text come, is it the same, how long is the pause.

Each run generates a text twice: undisturbed, then with SIGKILL (or SIGSTOP) to a random server of its route at a random
step, in a fifth of the runs to another one later. Then the dead are started again. Half of the runs go through
`model.stream()`, half through `generate()`. Servers of other boundaries stand by.

Bars: every text comes and equals the undisturbed one; the pause (the longest time between two tokens from the kill on)
is at most 0.2 s longer than the prefill of what has to be replayed (median), at most 0.6 s (median) and 2 s (p99);
with SIGSTOP at most 5 s (p99), of which up to 3 s are to notice it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from benchmarks.report import conditions, table, write_json
from swarm.demo.fleet import Fleet, fleet
from swarm.errors import SwarmError

SPANS = {
    "low": "0:10",
    "middle": "10:20",
    "high": "20:30",
    "lower half": "0:15",
    "upper half": "15:30",
    "early": "0:7",
    "between": "5:20",
    "late": "18:30",
}
"""Every block has at least three servers, and hardly two of them the same boundaries."""

NEW_TOKENS = 40
CONTEXT = (200, 460)
RESTARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of one text.

    Attributes:
        how: "stream" or "generate".
        context: Tokens of the prompt.
        kills: At which new token, and whom, with what blocks of the route.
        pauses: Longest time between two tokens from each kill to the next, seconds.
        replay: Seconds that the prefill of the lost blocks should take, by what their servers announce; of each kill.
        usual: Median time between tokens of the undisturbed run, seconds.
        is_equal: Whether the texts are the same.
        error: Why it ended early; empty if it did not.
        mends: How often hops were replaced.
    """

    how: str
    context: int
    kills: list[tuple[int, str, str]]
    pauses: list[float]
    replay: list[float]
    usual: float
    is_equal: bool
    error: str
    mends: int


class Bench:
    """A fleet, a client of it, and who is hurt next."""

    def __init__(self, running: Fleet, seed: int, number: signal.Signals) -> None:
        from swarm import AutoModelForCausalLM

        self.fleet = running
        self.rng = random.Random(seed)
        self.signal = number
        self.late: list[str] = []
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            initial_peers=[running.addr], codec="float32", reuse_prefixes=False
        )
        self.vocabulary = self.model.config.vocab_size

    def run(self, how: str, kills_at: Sequence[int]) -> Run:
        """Generate a text undisturbed, then with servers hurt at these new tokens."""
        prompt = [self.rng.randrange(1000, self.vocabulary) for _ in range(self.rng.randint(*CONTEXT))]
        times: list[float] = []
        expected = self._generate(how, prompt, lambda count: times.append(time.perf_counter()))
        usual = median(after - before for before, after in pairwise(times))
        times, kills, replay = [], list[tuple[int, str, str]](), list[float]()

        def on_token(count: int) -> None:
            times.append(time.perf_counter())
            if count in kills_at:
                name, blocks, seconds = self._hurt(len(prompt) + count)
                kills.append((count, name, blocks))
                replay.append(seconds)

        error, text = "", list[int]()
        try:
            text = self._generate(how, prompt, on_token)
        except Exception as fault:  # counted, and the next run goes on
            error = f"{type(fault).__name__}: {fault}"
        gaps = [after - before for before, after in pairwise(times)]
        ends = [*[at for at, _, _ in kills[1:]], len(gaps) + 1]
        pauses = [max(gaps[at - 1 : end - 1], default=0.0) for (at, _, _), end in zip(kills, ends, strict=True)]
        latest = self.model._latest
        self._heal([name for _, name, _ in kills])
        return Run(
            how=how,
            context=len(prompt),
            kills=kills,
            pauses=pauses,
            replay=replay,
            usual=usual,
            is_equal=text == expected,
            error=error,
            mends=latest.num_mends,
        )

    def _hurt(self, tokens: int) -> tuple[str, str, float]:
        hop = self.rng.choice(self.model.route())
        name = self.fleet.name(hop.peer)
        self.fleet.servers[name].popen.send_signal(self.signal)
        return name, f"{hop.start}:{hop.end}", tokens * (hop.end - hop.start) / self._prefill_per_s()

    def _prefill_per_s(self) -> float:
        routes = self.model._connection.routes
        records = [record for _, view in routes._views.values() for record in view.records]
        return float(median(record.prefill_per_s for record in records))

    def _heal(self, names: Sequence[str]) -> None:
        for name in names:
            if self.signal is signal.SIGSTOP:
                self.fleet.signal(name, signal.SIGCONT)
            else:
                self.fleet.servers.pop(name).popen.wait()
                self._restart(name)

    def _restart(self, name: str) -> None:
        """A server that is slow to come back is counted, and costs the benchmark no results."""
        for _ in range(RESTARTS):
            try:
                return self.fleet.restart(name)
            except SwarmError as error:
                self.late.append(f"{name}: {error}")
                print(f"restart of {self.late[-1]}", file=sys.stderr)
                self.fleet.servers.pop(name).stop()
        raise RuntimeError(f"server {name!r} does not come back after {RESTARTS} starts")

    def _generate(self, how: str, prompt: list[int], on_token: Callable[[int], None]) -> list[int]:
        options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
        if how == "stream":
            return asyncio.run(self._stream(prompt, on_token, options))
        import torch

        ids = torch.tensor([prompt])
        streamer = _Counter(on_token)
        made = self.model.generate(ids, attention_mask=torch.ones_like(ids), streamer=streamer, **options)
        return [int(token) for token in made[0, len(prompt) :]]

    async def _stream(self, prompt: list[int], on_token: Callable[[int], None], options: dict[str, Any]) -> list[int]:
        tokens: list[int] = []
        async for token in self.model.stream(prompt, **options):
            tokens.append(token)
            on_token(len(tokens))
        return tokens


class _Counter:
    """A streamer that only counts; generate() gives it the prompt first."""

    def __init__(self, on_token: Callable[[int], None]) -> None:
        self._on_token = on_token
        self._count = -1

    def put(self, value: Any) -> None:
        self._count += 1
        if self._count:
            self._on_token(self._count)

    def end(self) -> None:
        """Nothing to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if the bars hold, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks failover", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--stops", type=int, default=None, help="runs with SIGSTOP besides; a fifth of --runs")
    parser.add_argument("--quant", default="int4")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    result: dict[str, Any] = {"conditions": conditions(), "arguments": vars(args)}
    stops = max(1, args.runs // 5) if args.stops is None else args.stops
    with fleet("--threads", "1", "--quant", args.quant) as running:
        running.start(SPANS)
        for name, number, count in (("SIGKILL", signal.SIGKILL, args.runs), ("SIGSTOP", signal.SIGSTOP, stops)):
            bench = Bench(running, args.seed, number)
            runs = _runs(bench, count)
            result[name] = {"runs": [asdict(run) for run in runs], "late": bench.late, **_figures(runs)}
    result["bars"] = _bars(result)
    print(_text(result))
    write_json(args.json, result)
    return 0 if all(bar["holds"] for bar in result["bars"]) else 1


def _runs(bench: Bench, count: int) -> list[Run]:
    found = []
    for index in range(count):
        first = bench.rng.randint(1, NEW_TOKENS - 12)
        kills_at = [first, bench.rng.randint(first + 2, NEW_TOKENS - 4)] if index % 5 == 4 else [first]
        run = bench.run("stream" if index % 2 else "generate", kills_at)
        found.append(run)
        pauses = ", ".join(f"{pause:.3f}" for pause in run.pauses)
        state = run.error or ("equal" if run.is_equal else "DIFFERENT")
        print(f"{index + 1:>3} {run.how:<8} {run.context} tokens {run.kills}: {pauses} s, {state}", file=sys.stderr)
    return found


def _figures(runs: list[Run]) -> dict[str, Any]:
    pauses = sorted(pause for run in runs for pause in run.pauses)
    excess = [pause - replay for run in runs for pause, replay in zip(run.pauses, run.replay, strict=True)]
    return {
        "finished": sum(not run.error for run in runs),
        "equal": sum(run.is_equal for run in runs),
        "kills": len(pauses),
        "pause_median": median(pauses),
        "pause_p99": pauses[min(len(pauses) - 1, 99 * len(pauses) // 100)],
        "pause_max": pauses[-1],
        "excess_median": median(excess),
        "usual": median(run.usual for run in runs),
    }


def _bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    bars: list[tuple[str, float, float, bool]] = []
    for name in ("SIGKILL", "SIGSTOP"):
        found = result[name]
        count = len(found["runs"])
        bars.append((f"{name}: texts that came", found["finished"], count, True))
        bars.append((f"{name}: texts equal to the undisturbed", found["equal"], count, True))
    kill, stop = result["SIGKILL"], result["SIGSTOP"]
    bars.append(("SIGKILL: pause less the replay's prefill, median, s", kill["excess_median"], 0.2, False))
    bars.append(("SIGKILL: pause, median, s", kill["pause_median"], 0.6, False))
    bars.append(("SIGKILL: pause, p99, s", kill["pause_p99"], 2.0, False))
    bars.append(("SIGSTOP: pause, p99, s", stop["pause_p99"], 5.0, False))
    return [
        {"what": what, "found": value, "bar": bar, "holds": bool(value >= bar if is_least else value <= bar)}
        for what, value, bar, is_least in bars
    ]


def _text(result: dict[str, Any]) -> str:
    rows = []
    for name in ("SIGKILL", "SIGSTOP"):
        found = result[name]
        rows.append(
            [
                name,
                f"{found['finished']}/{len(found['runs'])}",
                f"{found['equal']}/{len(found['runs'])}",
                str(found["kills"]),
                *(f"{found[key]:.3f}" for key in ("pause_median", "pause_p99", "pause_max", "excess_median", "usual")),
            ]
        )
    head = ["signal", "came", "equal", "kills", "pause median", "p99", "max", "less replay", "usual gap"]
    bars = [
        f"{'ok  ' if b['holds'] else 'MISS'} {b['what']}: {b['found']:.3f} (bar {b['bar']})" for b in result["bars"]
    ]
    facts = ", ".join(f"{key} {value}" for key, value in result["conditions"].items())
    how = f"{len(SPANS)} servers of one thread, {result['arguments']['quant']}, prompts of {CONTEXT[0]} to {CONTEXT[1]}"
    late = [f"restart not ready in time: {each}" for name in ("SIGKILL", "SIGSTOP") for each in result[name]["late"]]
    return "\n".join([table(head, rows), "", *bars, *late, "", f"{how}, {NEW_TOKENS} new tokens, seconds; {facts}"])


if __name__ == "__main__":
    sys.exit(main())
