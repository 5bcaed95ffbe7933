"""Many sessions at once: tokens/s, time to first token and gaps between tokens, beside one server and transformers.

Bars, with three servers of one thread each on two cores, int4: 16 sessions decode at least 400 tokens/s without the
head and 300 with it, 3 x one session; 4 streams at least 180 tokens/s, first token of 40 within 250 ms (p95); while a
4,000-token prompt is prefilled, gaps (p95) at most 4 x as long, the prefill at least half as fast as alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.loads import load_client, load_local_batch
from benchmarks.report import conditions, table, write_json
from benchmarks.runners import Runner, runner
from swarm.demo.__main__ import even_spans
from swarm.demo.processes import local_swarm

NUM_BLOCKS = 30
PROMPT, NEW_TOKENS, LONG = 40, 64, 4000
LOAD_SHARE = 0.7
"""Poisson arrivals come at this share of what the closed loop of most sessions got through."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if the bars hold, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks serving", description=__doc__)
    parser.add_argument("--sessions", default="1,4,16,32", help="such as 1,4,16,32")
    parser.add_argument("--servers", default="3,1", help="such as 3,1: swarms of so many servers, one after another")
    parser.add_argument("--quant", default="int4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server-threads", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of the client; the local reference has all cores")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    counts = [int(word) for word in args.sessions.split(",")]
    result: dict[str, Any] = {"conditions": conditions(), "arguments": vars(args), "swarms": {}}
    with runner(load_local_batch, result["conditions"]["cores"]) as local:
        for servers in [int(word) for word in args.servers.split(",")]:
            result["swarms"][str(servers)] = _measure(args, servers, counts, local)
    first = next(iter(result["swarms"].values()))
    result["bars"] = _bars(first, counts)
    print(_text(result))
    write_json(args.json, result)
    return 0 if all(bar["holds"] for bar in result["bars"]) else 1


def _measure(args: argparse.Namespace, servers: int, counts: list[int], local: Runner) -> dict[str, Any]:
    flags = ["--quant", args.quant, "--threads", str(args.server_threads)]
    with (
        tempfile.TemporaryDirectory() as logs,
        local_swarm(even_spans(NUM_BLOCKS, servers), server_flags=flags, logs=Path(logs)) as swarm,
        runner(load_client, swarm.addr, args.threads) as client,
    ):
        client.run("burst", {"sessions": 2, "prompt": PROMPT, "new_tokens": 16, "seed": "warm"})
        local.run("local", {"sessions": 2, "prompt": PROMPT, "new_tokens": 4, "seed": "warm"})
        found: dict[str, Any] = {}
        for sessions in counts:
            rounds: dict[str, list[dict[str, Any]]] = {"hidden": [], "burst": [], "local": [], "closed": []}
            for index in range(args.rounds):
                seed = f"{servers} {sessions} {index}"  # no prompt comes twice: its beginning would be found again
                alike = {"sessions": sessions, "prompt": PROMPT, "new_tokens": NEW_TOKENS, "seed": seed}
                hidden = {"sessions": sessions, "prompt": PROMPT, "steps": NEW_TOKENS}
                rounds["hidden"].append(_run(client, "hidden", hidden))
                rounds["burst"].append(_run(client, "burst", alike))
                if sessions <= 16:
                    rounds["local"].append(_run(local, "local", alike))
                mixed = {"sessions": sessions, "requests": max(3, 2 * sessions), "seed": f"mixed {seed}"}
                if index == 0 or sessions <= 4:
                    rounds["closed"].append(_run(client, "closed", mixed))
            found[str(sessions)] = {name: _figures(runs) for name, runs in rounds.items() if runs}
        most = found[str(counts[-1])]["closed"]
        rate = LOAD_SHARE * most["requests_per_s"]
        arrivals = {"per_second": rate, "requests": 2 * counts[-1], "seed": f"poisson {servers}"}
        found["poisson"] = _figures([_run(client, "poisson", arrivals)]) | {"per_second": rate}
        found["beside"] = _beside([client.run("beside", {"sessions": 4, "long": LONG, "seed": f"beside {servers}"})])
    return found


def _run(who: Runner, name: str, options: dict[str, Any]) -> dict[str, Any]:
    measured: dict[str, Any] = who.run(name, options)
    print(f"{name:>7} {options}: {measured['tokens'] / measured['seconds']:.0f} tokens/s", file=sys.stderr)
    return measured


def _figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds of rates; percentiles over all requests and gaps of all rounds."""
    firsts, gaps = ([value for run in runs for value in run[name]] for name in ("firsts", "gaps"))
    decoding = [run["decode_tokens"] / run["decode_seconds"] for run in runs if run["decode_seconds"]]
    return {
        "tokens_per_s": median(run["tokens"] / run["seconds"] for run in runs),
        "all_tokens_per_s": median((run["tokens"] + run["prompt_tokens"]) / run["seconds"] for run in runs),
        "decode_per_s": median(decoding) if decoding else None,
        "requests_per_s": median(len(run["firsts"]) / run["seconds"] for run in runs),
        "first_ms": _percentiles(firsts),
        "gap_ms": _percentiles(gaps),
    }


def _beside(runs: list[dict[str, Any]]) -> dict[str, Any]:
    run = runs[0]
    quiet, busy = _percentiles(run["quiet_gaps"]), _percentiles(run["busy_gaps"])
    assert quiet is not None and busy is not None
    return {
        "quiet_gap_ms": quiet,
        "busy_gap_ms": busy,
        "gap_ratio": busy["p95"] / quiet["p95"],
        "prefill_alone_s": run["alone_seconds"],
        "prefill_beside_s": run["together_seconds"],
        "prefill_share": run["alone_seconds"] / run["together_seconds"],
    }


def _percentiles(seconds: list[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    ordered = sorted(1e3 * value for value in seconds)
    return {f"p{share}": ordered[min(len(ordered) - 1, share * len(ordered) // 100)] for share in (50, 95, 99)}


def _bars(found: dict[str, Any], counts: list[int]) -> list[dict[str, Any]]:
    bars: list[tuple[str, float, float, bool]] = []
    if 16 in counts:
        many = found["16"]
        bars.append(("16 sessions, servers alone, tokens/s", many["hidden"]["decode_per_s"], 400, True))
        bars.append(("16 streams with head, decoding, tokens/s", many["burst"]["decode_per_s"], 300, True))
        if 1 in counts:
            ratio = many["burst"]["decode_per_s"] / found["1"]["burst"]["decode_per_s"]
            bars.append(("16 streams over one, decoding", ratio, 3, True))
    if 4 in counts:
        bars.append(("4 streams, prompts included, tokens/s", found["4"]["burst"]["tokens_per_s"], 180, True))
        bars.append(("4 streams, first token of 40, p95, ms", found["4"]["burst"]["first_ms"]["p95"], 250, False))
    bars.append((f"gap p95 beside a prompt of {LONG}, over quiet", found["beside"]["gap_ratio"], 4, False))
    bars.append(("speed of that prefill, over alone", found["beside"]["prefill_share"], 0.5, True))
    return [
        {"what": what, "found": value, "bar": bar, "holds": bool(value >= bar if is_least else value <= bar)}
        for what, value, bar, is_least in bars
    ]


def _text(result: dict[str, Any]) -> str:
    args, rows = result["arguments"], []
    names = {"hidden": "servers alone", "burst": "streams", "closed": "closed loop, mixed", "local": "transformers"}
    for servers, found in result["swarms"].items():
        for sessions in args["sessions"].split(","):
            for name, figures in found[sessions].items():
                rows.append([servers if name != "local" else "", sessions, names[name], *_cells(figures)])
        poisson = found["poisson"]
        rows.append([servers, f"{poisson['per_second']:.2f}/s", "Poisson, mixed", *_cells(poisson)])
    head = [
        "servers",
        "sessions",
        "what",
        "tokens/s",
        "with prompts",
        "decoding",
        "first ms p50/p95/p99",
        "gap ms p50/p95/p99",
    ]
    lines = [table(head, rows), ""]
    for servers, found in result["swarms"].items():
        lines.append(_beside_text(servers, found["beside"]))
    lines.append("")
    lines += [
        f"{'ok  ' if bar['holds'] else 'MISS'} {bar['what']}: {bar['found']:.2f} (bar {bar['bar']})"
        for bar in result["bars"]
    ]
    facts = ", ".join(f"{key} {value}" for key, value in result["conditions"].items())
    how = (
        f"{args['quant']}, medians of {args['rounds']} rounds; streams: prompts of {PROMPT}, {NEW_TOKENS} new tokens; "
    )
    how += "mixed: prompts of 16-512, answers of 32-128; "
    how += f"{args['server_threads']} thread(s) a server, {args['threads']} in the client"
    return "\n".join([*lines, "", f"{how}; {facts}"])


def _cells(figures: dict[str, Any]) -> list[str]:
    cells = [f"{figures['tokens_per_s']:.0f}", f"{figures['all_tokens_per_s']:.0f}"]
    cells.append(f"{figures['decode_per_s']:.0f}" if figures["decode_per_s"] else "")
    for name in ("first_ms", "gap_ms"):
        found = figures[name]
        cells.append(" / ".join(f"{value:.0f}" for value in found.values()) if found else "")
    return cells


def _beside_text(servers: str, found: dict[str, Any]) -> str:
    gaps = f"{found['quiet_gap_ms']['p95']:.1f} -> {found['busy_gap_ms']['p95']:.1f} ms ({found['gap_ratio']:.2f} x)"
    prompt = f"{found['prefill_alone_s']:.1f} -> {found['prefill_beside_s']:.1f} s speed x {found['prefill_share']:.2f}"
    return f"{servers} server(s), 4 sessions beside a prompt of {LONG}: gap p95 {gaps}, the prompt {prompt}"


if __name__ == "__main__":
    sys.exit(main())
