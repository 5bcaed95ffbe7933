"""One stream: tokens/s, time to first token, per-hop overhead, beside local transformers.

Bars: at least 0.9 x local transformers in float32 and bfloat16, overhead per hop at most 1 ms; with `--quant`, whose
reference is bfloat16, 2.6 x for int4, 2.3 x for int8 and 1.5 x for plain bfloat16.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import conditions, summary, table, write_json
from benchmarks.runners import Runner, Timed, load_local, load_swarm, runner
from swarm.demo.__main__ import even_spans
from swarm.demo.processes import local_swarm

NUM_BLOCKS, VOCABULARY = 30, 49152
QUANTS = {"none": 1.5, "int8": 2.3, "int4": 2.6}
"""Formats of `--quant`, and how many times local transformers in bfloat16 each shall reach."""

SHORT, LONG, NEW_TOKENS = 40, 512, 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if the bars hold, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks decode", description=__doc__)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--quant", metavar="FORMATS", help="such as int4,int8,none: these instead of --dtypes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="threads of the local reference and of the client")
    parser.add_argument("--server-threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    quants = args.quant.split(",") if args.quant else []
    if unknown := set(quants) - set(QUANTS):
        parser.error(f"--quant {', '.join(sorted(unknown))}: choose among {', '.join(QUANTS)}")
    result: dict[str, Any] = {"conditions": conditions(), "arguments": vars(args), "dtypes": {}}
    for dtype in [] if quants else args.dtypes:
        result["dtypes"][dtype] = _compare(args, dtype, "none") | {"bar": 0.9}
    for quant in quants:
        name = "bfloat16" if quant == "none" else quant
        result["dtypes"][name] = _compare(args, "bfloat16", quant) | {"bar": QUANTS[quant]}
    print(_text(result))
    write_json(args.json, result)
    return 0 if all(_holds(entry) for entry in result["dtypes"].values()) else 1


def _compare(args: argparse.Namespace, dtype: str, quant: str) -> dict[str, Any]:
    flags = ["--dtype", dtype, "--quant", quant, "--threads", str(args.server_threads)]
    with (
        tempfile.TemporaryDirectory() as logs,
        local_swarm(even_spans(NUM_BLOCKS, args.servers), server_flags=flags, logs=Path(logs)) as local,
        runner(load_local, dtype, args.threads) as reference,
        runner(load_swarm, local.addr, dtype if quant == "none" else "auto", args.threads) as ours,
    ):
        rounds: dict[str, list[tuple[Timed, Timed]]] = {"local": [], "swarm": []}
        for index in range(args.rounds + 1):
            # Whoever comes second finds the machine in another state: take turns.
            turns = [("local", reference), ("swarm", ours)]
            for name, who in turns if index % 2 else reversed(turns):
                timed = _round(who, seed=index)
                print(
                    f"{dtype} {quant} {name:>5} round {index}: {1 / median(timed[0].gaps):5.1f} tokens/s",
                    file=sys.stderr,
                )
                if index:  # the first round warms both up
                    rounds[name].append(timed)
    return {name: _figures(timed) for name, timed in rounds.items()} | {"ratio": _ratio(rounds)}


def _round(who: Runner, *, seed: int) -> tuple[Timed, Timed]:
    """A short prompt with an answer, and a long one with its first token; fresh each round, the same for both sides."""
    dice = random.Random(seed)
    short, long = ([dice.randrange(100, VOCABULARY) for _ in range(length)] for length in (SHORT, LONG))
    first: Timed = who.run(short, NEW_TOKENS)
    second: Timed = who.run(long, 2)
    return first, second


def _figures(timed: list[tuple[Timed, Timed]]) -> dict[str, Any]:
    overheads = [value for short, _ in timed for value in short.overheads]
    return {
        "tokens_per_s": summary([len(short.gaps) / sum(short.gaps) for short, _ in timed]),
        "ms_per_token": summary([1e3 * median(short.gaps) for short, _ in timed]),
        "first_token_short_ms": summary([1e3 * short.first for short, _ in timed]),
        "first_token_long_ms": summary([1e3 * long.first for _, long in timed]),
        "overhead_per_hop_ms": summary([1e3 * value for value in overheads]) if overheads else None,
    }


def _ratio(rounds: dict[str, list[tuple[Timed, Timed]]]) -> dict[str, float]:
    """Swarm over local, round by round: drifts of the machine cancel out."""
    speeds = {name: [len(short.gaps) / sum(short.gaps) for short, _ in timed] for name, timed in rounds.items()}
    return summary([ours / theirs for ours, theirs in zip(speeds["swarm"], speeds["local"], strict=True)])


def _holds(entry: dict[str, Any]) -> bool:
    return bool(entry["ratio"]["median"] >= entry["bar"] and entry["swarm"]["overhead_per_hop_ms"]["median"] <= 1.0)


def _text(result: dict[str, Any]) -> str:
    args = result["arguments"]
    rows = []
    for dtype, entry in result["dtypes"].items():
        for name in ("local", "swarm"):
            figures = entry[name]
            overhead = figures["overhead_per_hop_ms"]
            rows.append(
                [
                    dtype,
                    "transformers" if name == "local" else f"swarm, {args['servers']} servers",
                    f"{figures['tokens_per_s']['median']:.1f}",
                    f"{figures['ms_per_token']['median']:.1f}",
                    f"{figures['first_token_short_ms']['median']:.0f}",
                    f"{figures['first_token_long_ms']['median']:.0f}",
                    f"{overhead['median']:.2f}" if overhead else "",
                    f"{entry['ratio']['median']:.2f}" if name == "swarm" else "1",
                ]
            )
    head = ["dtype", "what", "tokens/s", "ms/token", f"first of {SHORT}, ms", f"first of {LONG}, ms"]
    head += ["overhead per hop, ms", "x local"]
    facts = ", ".join(f"{key} {value}" for key, value in result["conditions"].items())
    how = f"medians of {args['rounds']} alternating rounds, {NEW_TOKENS} new tokens; {args['threads']} threads locally "
    how += f"and in the client, {args['server_threads']} in each server"
    return f"{table(head, rows)}\n\n{how}; {facts}"


if __name__ == "__main__":
    sys.exit(main())
