"""Conditions, medians, tables and JSON, the same for all benchmarks."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any


def conditions() -> dict[str, Any]:
    """Return what a reader must know of the machine and the software."""
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    flags = next((line.split() for line in _cpuinfo() if line.startswith("flags")), [])
    widest = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "simd": widest[0] if widest else "unknown",
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "hivemind", "swarm")},
    }


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return min, median and max."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_json(path: str | None, result: Mapping[str, Any]) -> None:
    """Write `result` to `path`, if there is one."""
    if path is not None:
        Path(path).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
