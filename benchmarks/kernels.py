"""Linear layers and whole blocks at the shapes of SmolLM2, a 1B and an 8B model: time, weights per second, error.

Bars, where AVX512-VNNI runs: a step of an 8B block reads int8 and int4 weights at 85 % of the read bandwidth that was
measured beside it; one of SmolLM2's takes 120 us in int4 and 150 us in int8 on one thread; 512 rows are no slower than
in bfloat16.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks import whole_blocks
from benchmarks.report import conditions, table, write_json
from swarm.blocks.layouts.packed4 import Packed4Linear
from swarm.blocks.layouts.plain import PackedLinear, PlainLinear
from swarm.blocks.linear import Linear
from swarm.blocks.native import NativeLinear, kernel_name
from swarm.blocks.native.arena import Arena
from swarm.blocks.native.binding import library
from swarm.blocks.quantize import quantize

SHAPES = {
    "SmolLM2": [(576, 576), (1536, 576), (576, 1536)],
    "1B": [(2048, 2048), (8192, 2048), (2048, 8192)],
    "8B": [(4096, 4096), (14336, 4096), (4096, 14336)],
}
"""(O, I) of attention's output, of gate and up, and of down."""

ROWS = (1, 4, 16, 512)
MAX_WORK = 12e9
"""Multiplications of one call: what takes longer (512 rows of the widest shapes) is left out."""

CACHE_BYTES = 96 << 20
"""Weights that take turns in the decode rows, so that they come from memory and not from the last cache."""

MIN_CALLS, MAX_SECONDS = 3, 0.3
"""Of one measurement: calls at least, and seconds after which no more are made."""

Kind = Callable[[Tensor], Linear]


class Int8PackLinear:
    """torch's stock op: bfloat16 activations, a scale for each output."""

    def __init__(self, weight: Tensor) -> None:
        scales = weight.float().abs().amax(1) / 127
        self._codes = (weight.float() / scales.unsqueeze(1)).round().to(torch.int8)
        self._scales = scales.bfloat16()
        self.weight_bytes = self._codes.nbytes + self._scales.nbytes

    def __call__(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """Return x W^T: (T, I) to (T, O)."""
        y: Tensor = torch.ops.aten._weight_int8pack_mm(x, self._codes, self._scales)
        return y if add is None else y.add_(add)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if the bars hold or do not apply, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks kernels", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS))
    parser.add_argument("--no-layers", dest="layers", action="store_false", help="whole blocks alone")
    parser.add_argument("--no-stock", action="store_true", help="leave torch's own layouts out")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    reading = Reading(args.threads)
    entries: list[dict[str, Any]] = []
    blocks: list[dict[str, Any]] = []
    with torch.inference_mode():
        for model in args.models:
            blocks += whole_blocks.measure(model, args.rows, reading.measure)
            print(f"{model} blocks done", file=sys.stderr)
            for shape in SHAPES[model] if args.layers else []:
                entries += _compare(model, shape, args, reading)
                print(f"{model} {shape} done", file=sys.stderr)
    facts = conditions() | {"kernel": kernel_name(), "read_gb_per_s": round(reading.best, 1)}
    result = {"conditions": facts, "arguments": vars(args), "layers": entries, "blocks": blocks}
    print(_text(result))
    write_json(args.json, result)
    return 0 if _holds(blocks) else 1


class Reading:
    """The read bandwidth of the machine, measured again beside each layer: it drifts, and others may use it."""

    def __init__(self, threads: int) -> None:
        self._numbers = Arena().take(2 * CACHE_BYTES).view(torch.int64).fill_(1)  # in large pages, as weights are
        self._threads, self.best = threads, 0.0

    def measure(self) -> float:
        """Return GB/s: the median in one stream a thread, or in four as our kernels read, if that is faster."""
        found = max(median(self._once(streams) for _ in range(5)) for streams in (1, 4))
        self.best = max(self.best, found)
        return found

    def _once(self, streams: int) -> float:
        native, started = library(), time.perf_counter()
        if native is None:
            self._numbers.sum()
        else:
            native.swarm_read(self._numbers.data_ptr(), self._numbers.nbytes, self._threads, streams)
        return self._numbers.nbytes / (time.perf_counter() - started) / 1e9


def _kinds(with_stock: bool) -> dict[str, Kind]:
    """Names to what makes a layer of a float32 weight; bfloat16's plain layer comes first, as the reference."""
    kinds: dict[str, Kind] = {"bf16 torch": lambda weight: PlainLinear(weight.bfloat16(), None)}
    if with_stock:
        kinds["bf16 oneDNN"] = lambda weight: PackedLinear(weight.bfloat16(), None)
        kinds["int8 torch"] = Int8PackLinear
        kinds["int4 torch"] = lambda weight: Packed4Linear(quantize(weight, 4), None)
    if library() is not None:
        kinds["bf16 native"] = lambda weight: NativeLinear(weight.bfloat16())
        kinds["int8 native"] = lambda weight: NativeLinear(quantize(weight, 8))
        kinds["int4 native"] = lambda weight: NativeLinear(quantize(weight, 4))
    return kinds


def _compare(model: str, shape: tuple[int, int], args: argparse.Namespace, reading: Reading) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(*shape, generator=generator) * 0.02
    activations = {rows: torch.randn(rows, shape[1], generator=generator).bfloat16() for rows in args.rows}
    wanted = activations[min(args.rows)].float() @ weight.t()
    found = []
    for name, make in _kinds(not args.no_stock).items():
        try:
            layer = make(weight)
            y = layer(activations[min(args.rows)])
        except RuntimeError:  # torch has this op, or this layout, on other CPUs only
            continue
        # Copies that take turns, so that a step finds its weights in memory, as it does in a whole model.
        copies = [layer] + [make(weight) for _ in range(min(7, CACHE_BYTES // layer.weight_bytes // 2))]
        entry = {"model": model, "shape": shape, "kind": name, "error": float((y - wanted).norm() / wanted.norm())}
        for rows, x in activations.items():
            if shape[0] * shape[1] * rows <= MAX_WORK:
                found.append(entry | {"rows": rows} | _figures(copies if rows < 512 else [layer], x, reading))
    return found


def _figures(layers: Sequence[Linear], x: Tensor, reading: Reading) -> dict[str, float]:
    read, seconds = reading.measure(), _seconds(layers, x)
    speed = layers[0].weight_bytes / seconds / 1e9
    return {"us": 1e6 * seconds, "gb_per_s": speed, "share": speed / max(read, reading.measure())}


def _seconds(layers: Sequence[Linear], x: Tensor) -> float:
    """Median seconds of a call, over layers that take turns."""
    times: list[float] = []
    for layer in layers:
        layer(x)
    end = time.perf_counter() + MAX_SECONDS
    while len(times) < MIN_CALLS or time.perf_counter() < end:
        layer = layers[len(times) % len(layers)]
        started = time.perf_counter()
        layer(x)
        times.append(time.perf_counter() - started)
    return median(times)


def _holds(blocks: list[dict[str, Any]]) -> bool:
    if kernel_name() != "avx512vnni":
        return True
    found = {(entry["model"], entry["kind"], entry["rows"]): entry for entry in blocks}
    for (model, kind, rows), entry in found.items():
        if kind not in ("int8 native", "int4 native"):
            continue
        if model == "8B" and rows == 1 and entry["share"] < 0.85:
            return False
        if model == "SmolLM2" and rows == 1 and entry["us"] > (120 if kind == "int4 native" else 150):
            return False
        if rows == 512 and entry["us"] > found[model, "bf16 native", rows]["us"]:
            return False
    return True


def _text(result: dict[str, Any]) -> str:
    lines: dict[tuple[Any, ...], list[str]] = {}
    rows_of = result["arguments"]["rows"]
    for entry in result["layers"] + result["blocks"]:
        out, width = entry.get("shape", (0, 0))
        line = lines.setdefault((entry["model"], out, width, entry["kind"]), ["", "", ""] + [""] * len(rows_of))
        line[3 + rows_of.index(entry["rows"])] = f"{entry['us']:.0f}"
        line[0] = f"{entry['error']:.4f}"
        if entry["rows"] == min(rows_of):
            line[1:3] = [f"{entry['gb_per_s']:.1f}", f"{entry['share']:.0%}"]
    head = ["layer", "kind", "error", "GB/s", "of read"] + [f"{rows} rows, us" for rows in rows_of]
    rows = [
        [f"{model} {f'{width} to {out}' if out else 'whole block'}", kind, *line]
        for (model, out, width, kind), line in lines.items()
    ]
    facts = ", ".join(f"{key} {value}" for key, value in result["conditions"].items())
    how = f"medians, {result['arguments']['threads']} threads, bfloat16 activations; layers above 100 %: from a cache"
    return f"{table(head, rows)}\n\n{how}; {facts}"


if __name__ == "__main__":
    sys.exit(main())
