"""A swarm over a wide-area network: tokens/s and time to first token, beside what the network makes unavoidable.

Every process is on a host of its own (`benchmarks.wide`): delay, loss and rate are set, the servers stay. Without
delay and rate the same servers tell what they need for themselves; with it, a token cannot take less than the one-way
trips of the route and that, a prompt not less than the trips and the slower of its transfer and its compute.

Bars, without loss: plain decoding at least 85 % of what is possible; 512 tokens to the first token at most 1.5 x what
is unavoidable, on a stream that has been in use.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from benchmarks.report import conditions, table, write_json
from benchmarks.runners import Runner, runner
from benchmarks.wide import why_not
from benchmarks.wide.asking import load_client
from benchmarks.wide.swarm import CLIENT, WideSwarm, wide_swarm
from swarm.demo.__main__ import even_spans

NUM_BLOCKS, VOCABULARY, HIDDEN_BYTES = 30, 49152, 2 * 576
"""Of the bundled model; activations travel in bfloat16."""

SHORT, LONG = 16, 512
DECODE_BAR, PROMPT_BAR = 0.85, 1.5
LOSS = 0.001

SETTLING = 11.0
"""Seconds after a change of the network: for ten, BBR believes in the shortest round trip that it has seen."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if the bars hold, 1 if not, 2 if this machine cannot make such a network."""
    args = _arguments(argv)
    if (missing := why_not()) is not None:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    result: dict[str, Any] = {"conditions": conditions(), "arguments": vars(args), "runs": [], "copy": []}
    for servers, trips in _plan(args):
        _measure(args, servers, trips, result)
    result["bars"] = _bars(result)
    print(_text(result))
    write_json(args.json, result)
    return 0 if all(bar["holds"] for bar in result["bars"]) else 1


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks wan", description=__doc__)
    parser.add_argument("--servers", metavar="N,N", default="", help="such as 3,6; by default 3, and 6 at one distance")
    parser.add_argument("--trips", metavar="MS,MS", default="20,50,80,100", help="round trips in ms")
    parser.add_argument("--rounds", type=int, default=0, help="of each measurement (default: 3, in full 5)")
    parser.add_argument("--new-tokens", type=int, default=0, help="after a short prompt (default: 24, in full 64)")
    parser.add_argument("--rate", type=float, default=100.0, help="of each uplink, in Mbit/s")
    parser.add_argument("--quant", default="int4")
    parser.add_argument(
        "--congestion", default="cubic", help="what the hosts' systems take by default; our streams choose their own"
    )
    parser.add_argument("--full", action="store_true", help="3 to 6 servers at all distances: half an hour")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    args.rounds = args.rounds or (5 if args.full else 3)
    args.new_tokens = args.new_tokens or (64 if args.full else 24)
    return args


def _plan(args: argparse.Namespace) -> list[tuple[int, list[tuple[float, float]]]]:
    """How many servers, and at which round trips (seconds) and losses."""
    trips = [float(word) / 1e3 for word in args.trips.split(",")]
    every = [(trip, loss) for loss in (0.0, LOSS) for trip in trips]
    if args.servers or args.full:
        return [(int(word), every) for word in (args.servers or "3,4,5,6").split(",")]
    return [(3, every), (6, [(0.08, 0.0)])]


def _measure(args: argparse.Namespace, servers: int, trips: list[tuple[float, float]], result: dict[str, Any]) -> None:
    """Run one swarm through all its distances; before each it runs without any, for machines drift."""
    with (
        tempfile.TemporaryDirectory() as logs,
        wide_swarm(
            even_spans(NUM_BLOCKS, servers),
            up_mbit=None,
            server_flags=["--quant", args.quant, "--threads", "1"],
            sysctls={"ipv4.tcp_congestion_control": args.congestion},
            logs=Path(logs),
        ) as swarm,
        runner(load_client, swarm.net.namespace(CLIENT), swarm.addr, 1) as client,
    ):
        dice = random.Random(servers)
        _rounds(client, dice, 1, args.new_tokens)  # warms up
        for trip, loss in trips:
            _set(swarm, servers, 0.0, 0.0, None)
            near = _figures(_rounds(client, dice, args.rounds, args.new_tokens))
            _set(swarm, servers, trip, loss, args.rate)
            time.sleep(SETTLING)
            _rounds(client, dice, 1, 2)
            before = swarm.net.stats()
            found = _figures(_rounds(client, dice, args.rounds, args.new_tokens))
            after = swarm.net.stats()
            run = {"servers": servers, "round_trip": trip, "loss": loss, "rate": args.rate, "near": near, **found}
            run["lost_packets"] = after["lost"] - before["lost"]
            result["runs"].append(run | _unavoidable(run))
            print(_line(result["runs"][-1]), file=sys.stderr)
        if servers == 3:
            result["copy"] = [_copy(swarm, client, args, trip) for trip in sorted({trip for trip, _ in trips})[-2:]]


def _set(swarm: WideSwarm, servers: int, trip: float, loss: float, rate: float | None) -> None:
    for host in (CLIENT, *(f"server{index}" for index in range(servers))):
        swarm.net.set_rate(host, rate)
    swarm.net.set(delay=trip / 2, loss=loss)


def _rounds(client: Runner, dice: random.Random, rounds: int, new_tokens: int) -> list[dict[str, Any]]:
    """In each: a short prompt over a new session and its answer, then long ones over that session, on a stream that
    has only carried single tokens for a while, and on one that has just carried as much."""

    def ask(length: int, count: int, is_new: bool) -> dict[str, Any]:
        prompt = [dice.randrange(100, VOCABULARY) for _ in range(length)]  # never twice: its pages would be found
        found: dict[str, Any] = client.run("time", {"prompt": prompt, "new_tokens": count, "is_new": is_new})
        return found

    found = []
    for _ in range(rounds):
        short = ask(SHORT, new_tokens, True)
        rested, warm = ask(LONG, 2, False), ask(LONG, 2, False)
        found.append({"short": short, "rested": rested, "warm": warm, "new": ask(LONG, 2, True)})
    return found


def _figures(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds; tokens/s count every gap, for a lost packet makes few long ones."""
    gaps = [gap for each in rounds for gap in each["short"]["gaps"]]
    steps = [step for each in rounds for step in each["short"]["steps"] if step["tokens"] == 1]
    return {
        "tokens_per_s": 1 / fmean(gaps),
        "gap": median(gaps),
        "gap_worst": max(gaps),
        "first_short": median(each["short"]["first"] for each in rounds),
        "first_long": {name: median(each[name]["first"] for each in rounds) for name in ("warm", "rested", "new")},
        "blocks": median(step["compute"] for step in steps),
        "client": max(0.0, median(gaps) - median(step["seconds"] for step in steps)),
        "num_gaps": len(gaps),
    }


def _unavoidable(run: dict[str, Any]) -> dict[str, Any]:
    """What no software can save: the trips, and what the same servers and client need without a network."""
    trips = (run["servers"] + 1) * run["round_trip"] / 2
    near = run["near"]
    gap = trips + near["blocks"] + near["client"]
    transfer = LONG * HIDDEN_BYTES * 8 / (1e6 * run["rate"])
    first = trips + max(transfer, near["first_long"]["warm"])
    return {
        "bound_tokens_per_s": 1 / gap,
        "decode_share": run["tokens_per_s"] * gap,
        "bound_first_long": first,
        "prompt_ratio": run["first_long"]["warm"] / first,
    }


def _copy(swarm: WideSwarm, client: Runner, args: argparse.Namespace, trip: float) -> dict[str, Any]:
    """Repeat a text, plainly and with drafts looked up in the prompt."""
    _set(swarm, 3, trip, 0.0, args.rate)
    time.sleep(SETTLING)
    found: dict[str, Any] = {"round_trip": trip}
    for lookup in (None, 10):
        told = client.run("copy", {"new_tokens": 64, "lookup": lookup})
        found["plain" if lookup is None else "lookup"] = told | {"tokens_per_s": len(told["ids"]) / told["seconds"]}
    found["is_identical"] = found["plain"]["ids"] == found["lookup"]["ids"]
    return found


def _bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    bars: list[dict[str, Any]] = []
    for run in result["runs"]:
        if run["loss"]:
            continue
        where = f"{run['servers']} servers, {1e3 * run['round_trip']:.0f} ms"
        share, ratio = run["decode_share"], run["prompt_ratio"]
        bars.append({"what": f"{where}: share of possible tokens/s", "found": share, "bar": DECODE_BAR})
        bars[-1]["holds"] = share >= DECODE_BAR
        bars.append({"what": f"{where}: first of {LONG} over unavoidable", "found": ratio, "bar": PROMPT_BAR})
        bars[-1]["holds"] = ratio <= PROMPT_BAR
    for copy in result["copy"]:
        what = f"copying at {1e3 * copy['round_trip']:.0f} ms: same tokens with drafts"
        bars.append({"what": what, "found": float(copy["is_identical"]), "bar": 1, "holds": copy["is_identical"]})
    return bars


def _line(run: dict[str, Any]) -> str:
    return " | ".join(_cells(run))


def _cells(run: dict[str, Any]) -> list[str]:
    long = run["first_long"]
    return [
        str(run["servers"]),
        f"{1e3 * run['round_trip']:.0f}",
        f"{100 * run['loss']:.1f}",
        f"{run['tokens_per_s']:.2f}",
        f"{run['bound_tokens_per_s']:.2f}",
        f"{100 * run['decode_share']:.0f} %",
        f"{1e3 * run['gap_worst']:.0f}",
        f"{1e3 * run['first_short']:.0f}",
        f"{1e3 * long['warm']:.0f}",
        f"{1e3 * run['bound_first_long']:.0f}",
        f"{run['prompt_ratio']:.2f}",
        f"{1e3 * long['rested']:.0f}",
        f"{1e3 * long['new']:.0f}",
        f"{run['lost_packets']:.0f}",
    ]


def _text(result: dict[str, Any]) -> str:
    args = result["arguments"]
    head = ["servers", "round trip, ms", "loss, %", "tokens/s", "possible", "share", "worst gap, ms"]
    head += [f"first of {SHORT}, ms", f"first of {LONG}, warm, ms", "unavoidable", "ratio", "rested", "new session"]
    head += ["packets lost"]
    lines = [table(head, [_cells(run) for run in result["runs"]]), ""]
    for copy in result["copy"]:
        plain, lookup = copy["plain"], copy["lookup"]
        lines.append(
            f"copying a text at {1e3 * copy['round_trip']:.0f} ms: {plain['tokens_per_s']:.2f} tokens/s, with "
            f"prompt_lookup_num_tokens=10 {lookup['tokens_per_s']:.2f}, "
            f"{'the same' if copy['is_identical'] else 'OTHER'} tokens"
        )
    lines.append("")
    lines += [
        f"{'ok  ' if bar['holds'] else 'MISS'} {bar['what']}: {bar['found']:.2f} (bar {bar['bar']})"
        for bar in result["bars"]
    ]
    for servers in sorted({run["servers"] for run in result["runs"]}):
        near = [run["near"] for run in result["runs"] if run["servers"] == servers]
        blocks, own, gap = (1e3 * median(each[name] for each in near) for name in ("blocks", "client", "gap"))
        first = 1e3 * median(each["first_long"]["warm"] for each in near)
        lines.append(
            f"{servers} servers without a network: blocks {blocks:.1f} ms and client {own:.1f} ms a token, "
            f"{gap:.1f} ms in all; first of {LONG}: {first:.0f} ms"
        )
    facts = ", ".join(f"{key} {value}" for key, value in result["conditions"].items())
    how = f"{args['quant']}, {args['rate']:.0f} Mbit/s, medians of {args['rounds']} rounds, {args['new_tokens']} new "
    how += f"tokens after a short prompt, 1 thread a server; hosts' default congestion control {args['congestion']}"
    return "\n".join([*lines, "", f"{how}; {facts}"])


if __name__ == "__main__":
    sys.exit(main())
