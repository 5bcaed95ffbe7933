"""State as JSON: the one shape that the API, the event stream, the page and `swarm.status --json` share.

Whatever comes from a stranger's record is bounded here; times are Unix times, throughputs tokens per second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from swarm.monitor.state import Listed, ModelState, Standing, SwarmState
from swarm.types import EngineStats, Span

SHAPE = 1
"""Version of the shape; fields are added without a new one."""

MAX_SHOWN = 5000
"""Servers of a model that are listed; all count in its coverage."""

MAX_SHOWN_ADDRS, MAX_ADDR_CHARS = 4, 160
"""Of a server, where all are listed; its own page tells them whole."""

Json = dict[str, Any]


def swarm_shape(state: SwarmState) -> Json:
    """Return the whole state."""
    return {**frame_shape(state), "models": models_shape(state), "servers": list(servers_shape(state).values())}


def frame_shape(state: SwarmState) -> Json:
    """Return what is said of the swarm as a whole."""
    serving = [each for model in state.models for each in model.servers if each.standing is Standing.SERVING]
    return {
        "shape": SHAPE,
        "at": round(state.taken_at, 3),
        "problem": state.problem,
        "totals": {
            "models": len(state.models),
            "models_whole": sum(model.is_whole for model in state.models),
            "servers": sum(len(model.servers) for model in state.models),
            "serving": len(serving),
            "free_pages": sum(listed.record.free_pages for listed in serving),
            "load": sum(listed.record.load for listed in serving),
        },
    }


def models_shape(state: SwarmState) -> list[Json]:
    """Return the models without their servers."""
    return [model_shape(model) for model in state.models]


def model_shape(model: ModelState) -> Json:
    """Return one model without its servers; spans are [first, end), end excluded."""
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "num_blocks": model.num_blocks,
        "num_covered": model.num_covered,
        "is_whole": model.is_whole,
        "per_s": _rounded(model.per_s),
        "fewest": model.fewest,
        "servers": {standing.value: model.count(standing) for standing in Standing},
        "coverage": [
            {"start": s.span.start, "end": s.span.end, "servers": s.servers, "per_s": _rounded(s.per_s)}
            for s in model.stretches
        ],
        "bottleneck": _pairs(model.bottleneck),
        "missing": _pairs(model.missing),
        "alerts": [
            {"level": a.level.value, "kind": a.kind, "text": a.text, "spans": _pairs(a.spans)} for a in model.alerts
        ],
    }


def servers_shape(state: SwarmState) -> Mapping[str, Json]:
    """Return all servers, by a key of model and peer."""
    return {
        f"{model.name} {listed.record.peer}": server_shape(listed)
        for model in state.models
        for listed in model.servers[:MAX_SHOWN]
    }


def server_shape(listed: Listed) -> Json:
    """Return one server as it is listed among many; without the expiry, which changes all the time."""
    record = listed.record
    return {
        "model": record.model,
        "peer": record.peer,
        "name": record.public_name,
        "start": record.span.start,
        "end": record.span.end,
        "next": record.next_span and [record.next_span.start, record.next_span.end],
        "state": record.state.value,
        "standing": listed.standing.value,
        "per_s": _rounded(listed.span_per_s),
        "decode_per_s": _rounded(record.decode_per_s),
        "prefill_per_s": _rounded(record.prefill_per_s),
        "load": record.load,
        "free_pages": record.free_pages,
        "dtype": record.dtype,
        "quant": record.quant,
        "kernel": record.kernel,
        "reach": record.reach.value,
        "since": round(record.since, 1),
        "version": record.version,
        "addrs": [addr[:MAX_ADDR_CHARS] for addr in record.addrs[:MAX_SHOWN_ADDRS]],
    }


def peer_shape(listed: Listed) -> Json:
    """Return all that one server's record says."""
    record = listed.record
    return server_shape(listed) | {
        "addrs": list(record.addrs),
        "fingerprint": record.fingerprint,
        "num_blocks": record.num_blocks,
        "expires_at": round(record.expires_at, 3),
        "round_trips": [{"peer": peer, "seconds": round(seconds, 6)} for peer, seconds in record.round_trips],
    }


def stats_shape(stats: EngineStats) -> Json:
    """Return what a server's engine told when it was asked."""
    return {name: _rounded(value) if isinstance(value, float) else value for name, value in asdict(stats).items()}


def _pairs(spans: Iterable[Span]) -> list[list[int]]:
    return [[span.start, span.end] for span in spans]


def _rounded(value: float) -> float:
    """Four digits: more is noise, and each change is sent to everybody who watches."""
    return float(f"{value:.4g}")
