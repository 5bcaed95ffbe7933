"""Builders: records and views of a swarm that does not exist."""

from __future__ import annotations

from typing import Any

from swarm.types import PeerId, ServerRecord, ServerState, Span, View


def record(name: str, start: int, end: int, **changes: Any) -> ServerRecord:
    fields: dict[str, Any] = {
        "peer": PeerId(name),
        "model": "m",
        "fingerprint": "f",
        "num_blocks": 30,
        "span": Span(start, end),
        "digests": tuple(f"d{block}" for block in range(start, end)),
        "state": ServerState.ONLINE,
        "decode_per_s": 1000.0,
        "prefill_per_s": 5000.0,
        "free_pages": 100,
        "load": 0,
        "dtype": "float32",
        "quant": "none",
        "addrs": (),
        "public_name": "",
        "version": "0",
        "expires_at": 1e9,
    }
    return ServerRecord(**{**fields, **changes})


def view(*records: ServerRecord) -> View:
    return View(model="m", records=records, taken_at=0.0)
