"""A state as lines for a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from unicodedata import combining, east_asian_width

from swarm.monitor.state import Level, Listed, ModelState, SwarmState

MAP_WIDTH = 60
"""Characters of the map; a model with fewer blocks gets one for each."""

_MARKS = {Level.BAD: "!!", Level.WARN: " !", Level.NOTE: "  "}
_HEADS = ("server", "blocks", "state", "tok/s", "load", "free pages", "weights", "reach", "up", "version")
_RIGHT = frozenset({"tok/s", "load", "free pages", "up"})


def as_text(state: SwarmState, *, now: float | None = None) -> str:
    """Return the whole state as a person reads it; `now` is the Unix time from which uptimes are counted."""
    moment = time.time() if now is None else now
    if not state.models:
        return "no model is served in this swarm"
    return "\n\n".join(_model(model, moment) for model in state.models)


def _model(model: ModelState, now: float) -> str:
    word = "whole" if model.is_whole else f"INCOMPLETE, {model.num_covered} of {model.num_blocks} blocks"
    servers = f"{len(model.servers)} server{'' if len(model.servers) == 1 else 's'}"
    head = f"{model.name}  {model.num_blocks} blocks  {servers}  {word}"
    if model.is_whole:
        head += f"  {rate(model.per_s)} tokens/s"
    alerts = [f"{_MARKS[alert.level]} {alert.text}" for alert in model.alerts]
    rows = [_row(listed, now) for listed in model.servers]
    return "\n".join([head, f"  {coverage_map(model)}", *alerts, *_columns([_HEADS, *rows])])


def coverage_map(model: ModelState) -> str:
    """Return the model as a line of digits: how many servers hold the least covered block of each part, 9 at most."""
    counts = [stretch.servers for stretch in model.stretches for _ in range(len(stretch.span))]
    width = min(MAP_WIDTH, len(counts))
    cuts = [round(index * len(counts) / width) for index in range(width + 1)]
    least = [min(counts[start:end]) for start, end in pairwise(cuts)]
    cells = "".join("." if count == 0 else str(min(count, 9)) for count in least)
    return f"0 [{cells}] {len(counts) - 1}   servers per block, . is none"


def rate(per_s: float) -> str:
    """Return a throughput with three digits at most, or whole."""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


def _row(listed: Listed, now: float) -> tuple[str, ...]:
    record = listed.record
    name = f"{record.public_name} (…{record.peer[-6:]})" if record.public_name else f"…{record.peer[-12:]}"
    return (
        name,
        str(record.span),
        listed.standing.value,
        rate(listed.span_per_s),
        str(record.load),
        str(record.free_pages),
        f"{record.quant} {record.dtype} {record.kernel}".strip(),
        record.reach.value,
        _age(now - record.since) if record.since else "-",
        record.version,
    )


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            " " * (width - _width(cell)) + cell if head in _RIGHT else cell + " " * (width - _width(cell))
            for cell, width, head in zip(row, widths, _HEADS, strict=True)
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def _width(text: str) -> int:
    """Columns on a terminal: names may be in any script."""
    return sum(0 if combining(sign) else 2 if east_asian_width(sign) in "WF" else 1 for sign in text)
