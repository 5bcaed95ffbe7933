"""A server's /metrics and /healthz."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from swarm.directory import Directory
from swarm.directory.readings import read_network
from swarm.server.config import ServerConfig
from swarm.server.server import Server
from swarm.types import EngineStats, ServerState
from swarm.web import counter, facts, gauge, operators_face
from swarm.web.readings import Metric


@dataclass(frozen=True, slots=True)
class Shown:
    """How one field of `EngineStats` is shown: name without prefix, and what it is."""

    name: str
    text: str
    kind: Literal["gauge", "counter"] = "gauge"


STATS = {
    "sessions": Shown("sessions", "Open sessions"),
    "running": Shown("steps_running", "Steps that are being computed, prefills that were begun included"),
    "waiting": Shown("steps_waiting", "Steps that have not begun"),
    "pages": Shown("kv_pages", "KV pages of the pool, 16 tokens each"),
    "pages_used": Shown("kv_pages_used", "KV pages held by sessions"),
    "pages_cached": Shown("kv_pages_cached", "KV pages held only to be found again, given up when sessions need them"),
    "sequences": Shown("sequences", "Sequences of all sessions"),
    "prefill_per_s": Shown("prefill_tokens_per_second", "Prompt tokens per second, of the last 10 seconds"),
    "decode_per_s": Shown("decode_tokens_per_second", "Other tokens per second, of the last 10 seconds"),
    "batch_rows": Shown("batch_sequences", "Sequences in a decoding batch, mean of the last 10 seconds"),
    "batch_rows_max": Shown("batch_sequences_max", "Sequences in the largest decoding batch of the last 10 seconds"),
    "queue_p50": Shown("queue_p50_seconds", "From a step's arrival to its beginning, median"),
    "queue_p95": Shown("queue_p95_seconds", "From a step's arrival to its beginning, 95th percentile"),
    "queue_p99": Shown("queue_p99_seconds", "From a step's arrival to its beginning, 99th percentile"),
    "num_busy": Shown("steps_busy_total", "Steps answered with Busy since these blocks were loaded", "counter"),
    "prefix_wanted": Shown("prefix_wanted_tokens_total", "Tokens of prompts that were looked up", "counter"),
    "prefix_found": Shown("prefix_found_tokens_total", "Of them, those that needed not be computed", "counter"),
    "bytes_waiting": Shown("waiting_bytes", "Activations of the steps that wait"),
}
"""Every field of `EngineStats`; a test says if one is missing."""

PREFIX = "swarm_server_"


@asynccontextmanager
async def metrics(config: ServerConfig, server: Server, directory: Directory) -> AsyncIterator[str]:
    """Answer at `--metrics-port` until the block is left; yields the URL.

    Raises:
        UsageError, AddressInUse, AddressInvalid: As `operators_face`.
    """

    def health() -> tuple[bool, str]:
        return server.peer.failure is None, server.record().state.value

    async with operators_face(
        lambda: read(server, directory),
        health,
        host=config.metrics_host,
        port=config.metrics_port or 0,
        key_file=config.metrics_key_file,
    ) as url:
        yield url


def read(server: Server, directory: Directory) -> Iterator[Metric]:
    """Read everything off now; on the event loop."""
    yield from _facts(server)
    yield from read_network(server.peer, directory)
    yield from _stats(server.reception.stats())
    yield from _counts(server)


def _facts(server: Server) -> Iterator[Metric]:
    record = server.record()
    words = {
        "peer": record.peer,
        "public_name": record.public_name,
        "version": record.version,
        "model": record.model,
        "blocks": str(record.span),
        "state": record.state.value,
        "reach": record.reach.value,
        "kernel": record.kernel,
        "quant": record.quant,
        "dtype": record.dtype,
        "device": server.choice.device,
    }
    yield facts(PREFIX + "info", "What is served, and how", words)
    yield gauge(PREFIX + "online", "1 if new sessions are taken", float(record.state is ServerState.ONLINE))
    yield gauge(PREFIX + "blocks", "Blocks served", len(record.span))
    yield gauge(PREFIX + "block_decode_tokens_per_second", "Announced speed of one block", record.decode_per_s)
    yield gauge(PREFIX + "block_prefill_tokens_per_second", "The same for prompts", record.prefill_per_s)
    if (stored_at := server.announcer.stored_at) is not None:
        age = time.monotonic() - stored_at
        yield gauge(PREFIX + "record_age_seconds", "Since the directory last stored our record", age)


def _stats(stats: EngineStats) -> Iterator[Metric]:
    for field, shown in STATS.items():
        make = counter if shown.kind == "counter" else gauge
        yield make(PREFIX + shown.name, shown.text, getattr(stats, field))


def _counts(server: Server) -> Iterator[Metric]:
    tally = server.reception.tally
    for name, text, count in (
        ("sessions_opened_total", "Sessions that were opened here", tally.opened),
        ("steps_total", "Steps received", tally.steps),
        ("tokens_total", "Tokens in these steps, prompts included", tally.tokens),
        ("replays_total", "Outboxes sent again, to the hop that took a lost one's place", tally.replays),
        ("handovers_total", "Sessions asked to move elsewhere, since this server leaves or moves", tally.handed_over),
        ("links_lost_total", "Ends of links to next hops", tally.links_lost),
        ("loads_total", "Spans loaded: the first, and one for each move", tally.loads),
    ):
        yield counter(PREFIX + name, text, count)
    yield counter(PREFIX + "failures_total", "What clients were told that failed", tally.failures, "error")
