"""What came of a simulated swarm: numbers, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

from swarm.simulator.config import SimulatorConfig
from swarm.simulator.routes import Measured, RouteMeter
from swarm.simulator.samples import Samples
from swarm.simulator.world import World
from swarm.types import PeerId, ServerRecord, ServerState, Span
from swarm.wire.records import encode_record

REPLICAS = 5
"""Peers that keep each record (`swarm.directory`), and that each answer a search with all they have."""

ENVELOPE = 64 + 60 + 30
"""Bytes around a record in the DHT: its signature, its subkey, expiry and framing."""

SAMPLED = 512
"""Records that a look would bring if the directory handed out samples of a large swarm (design section 5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The directory's traffic in bytes a second, worked out from what servers stored and read.

    Attributes:
        record_bytes: One record of this swarm with everything around it.
        mean: Of a server, sent and received: refreshes and changes at all replicas, its share of others', its looks.
        replica: Of each of the peers that happen to keep the model's key, and answer all looks.
        mean_sampled: As `mean`, if a look brought at most SAMPLED records.
    """

    record_bytes: int
    mean: float
    replica: float
    mean_sampled: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The results of one simulated swarm.

    Attributes:
        covered: Share of the time in which all blocks had a server, while the servers could hold all blocks.
        bottleneck_mean: Weakest block's tokens/s over the bound that no placement can exceed, mean over time.
        bottleneck_p5: As `bottleneck_mean`, exceeded in 95 percent of the time.
        bottleneck_min: As `bottleneck_mean`, the least.
        reference_mean: Weakest block's tokens/s over that of a placement by somebody who knows all; mean of some times.
        moves: Servers that left their span for another.
        moves_per_server_hour: Of them for each server and hour.
        moves_given_up: Wishes to move that were announced and not carried out.
        moves_uncovering: Moves after which a block of the span left had no server, while before all blocks had one.
        moves_desperate: Moves after which one had none while another had none before: the placer's last resort.
        routes: Routes measured.
        routes_failed: Clients that found none.
        latency_median: A route's true latency over that of the best path, median.
        latency_p95: As `latency_median`, 95th percentile.
        step_median: Seconds a decode step takes through the routes found, median.
        best_median: Seconds through the best paths, median.
        hops_mean: Hops of a route.
        dead_hops: Dead servers that clients met for each route.
        traffic: The directory's.
    """

    covered: float
    bottleneck_mean: float
    bottleneck_p5: float
    bottleneck_min: float
    reference_mean: float
    moves: int
    moves_per_server_hour: float
    moves_given_up: int
    moves_uncovering: int
    moves_desperate: int
    routes: int
    routes_failed: int
    latency_median: float
    latency_p95: float
    step_median: float
    best_median: float
    hops_mean: float
    dead_hops: float
    traffic: Traffic


def make_report(world: World, samples: Samples, routes: RouteMeter) -> Report:
    """Sum up a simulation that is over."""
    ledger, main = world.ledger, world.ledger.main
    warm = _warm(samples)
    shares = sorted(samples.bottleneck[i] / samples.bound[i] for i in warm)
    ratios = sorted(route.taken / route.best for route in routes.measured)
    hours = sum(side.server_seconds for side in ledger.sides) / 3600
    return Report(
        covered=main.covered_seconds / main.seconds if main.seconds else 0.0,
        bottleneck_mean=fmean(shares or [0.0]),
        bottleneck_p5=_quantile(shares, 0.05),
        bottleneck_min=_quantile(shares, 0.0),
        reference_mean=_against_references(samples),
        moves=len(ledger.moved_at),
        moves_per_server_hour=len(ledger.moved_at) / hours if hours else 0.0,
        moves_given_up=ledger.num_wished - len(ledger.moved_at),
        moves_uncovering=ledger.num_uncovering,
        moves_desperate=ledger.num_desperate,
        routes=len(routes.measured),
        routes_failed=routes.num_failed,
        latency_median=_quantile(ratios, 0.5),
        latency_p95=_quantile(ratios, 0.95),
        step_median=_median(routes.measured, "taken"),
        best_median=_median(routes.measured, "best"),
        hops_mean=fmean([route.num_hops for route in routes.measured] or [0]),
        dead_hops=fmean([route.num_dead for route in routes.measured] or [0]),
        traffic=_traffic(world),
    )


def write_json(path: Path, config: SimulatorConfig, report: Report, samples: Samples, routes: RouteMeter) -> None:
    """Write the conditions, the results and the series behind them."""
    document = {
        "config": {name: value for name, value in asdict(config).items() if name not in ("json", "plots", "debug")},
        "report": asdict(report),
        "series": {
            "seconds": samples.times,
            "bare_blocks": samples.bare,
            "bottleneck": [round(value, 2) for value in samples.bottleneck],
            "bound": [round(value, 2) for value in samples.bound],
            "servers": samples.alive,
            "moved_at": [round(value, 1) for value in samples.world.ledger.moved_at],
            "references": samples.references,
        },
        "routes": [asdict(route) for route in routes.measured],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def as_text(config: SimulatorConfig, report: Report, *, took: float) -> str:
    """Return what a person wants to know."""
    traffic = report.traffic
    text = (
        f"{config.servers} servers, {config.blocks} blocks, {config.hours:g} h, scenario {config.scenario}, "
        f"seed {config.seed}; simulated in {took:.0f} s\n"
        f"covered        {report.covered:9.3%} of the time in which the servers could hold all blocks\n"
        f"weakest block  {report.bottleneck_mean:9.1%} of the bound on average, {report.bottleneck_p5:.1%} at p5, "
        f"{report.bottleneck_min:.1%} at least\n"
        f"               {report.reference_mean:9.1%} of a placement by somebody who knows all\n"
        f"moves          {report.moves_per_server_hour:9.3f} per server-hour ({report.moves} in all, "
        f"{report.moves_given_up} given up, {report.moves_uncovering} uncovered a block, {report.moves_desperate} did "
        "while another was bare)\n"
    )
    if report.routes:
        text += (
            f"route time     {report.latency_median:9.2f} of the best path's (median), {report.latency_p95:.2f} (p95); "
            f"{1e3 * report.step_median:.0f} ms a step against {1e3 * report.best_median:.0f} ms\n"
            f"hops           {report.hops_mean:9.1f} on average, {report.dead_hops:.2f} dead servers met, "
            f"{report.routes_failed} of {report.routes + report.routes_failed} clients without a route\n"
        )
    return text + (
        f"directory      {traffic.mean / 1e3:9.1f} kB/s a server, {traffic.replica / 1e3:.0f} kB/s for each of the "
        f"{REPLICAS} that keep the key; {traffic.mean_sampled / 1e3:.1f} kB/s a server if looks were samples"
    )


def _warm(samples: Samples) -> list[int]:
    """The samples since all blocks were covered for the first time: before, a swarm only begins."""
    first = next((i for i, bare in enumerate(samples.bare) if bare == 0), len(samples.bare))
    return [i for i in range(first, len(samples.bare)) if samples.bound[i] > 0]


def _against_references(samples: Samples) -> float:
    shares = []
    for seconds, level in samples.references:
        near = min(range(len(samples.times)), key=lambda i: abs(samples.times[i] - seconds))
        if level > 0:
            shares.append(samples.bottleneck[near] / level)
    return fmean(shares or [0.0])


def _traffic(world: World) -> Traffic:
    ledger, config = world.ledger, world.config
    seconds = sum(side.server_seconds for side in ledger.sides)
    alive = seconds / config.seconds
    record = len(encode_record(_typical_record(config))) + ENVELOPE
    stores = 3 / config.ttl + ledger.num_announced / seconds
    read = ledger.records_read / seconds
    # Whatever one server sends another receives.
    mean = 2 * REPLICAS * record * (stores + read)
    sampled = min(read, ledger.num_looks / seconds * SAMPLED)
    return Traffic(
        record_bytes=record,
        mean=mean,
        replica=record * (stores + read) * alive,
        mean_sampled=2 * REPLICAS * record * (stores + sampled),
    )


def _typical_record(config: SimulatorConfig) -> ServerRecord:
    """A record as real servers announce it, with a digest for each block and addresses."""
    size = max(1, round(config.blocks * config.span))
    peer = "12D3KooW" + "x" * 44
    return ServerRecord(
        peer=PeerId(peer),
        model="meta-llama/Llama-3.1-70B-Instruct",
        fingerprint="0" * 32,
        num_blocks=config.blocks,
        span=Span(0, size),
        digests=("0" * 16,) * size,
        state=ServerState.ONLINE,
        decode_per_s=1234.5,
        prefill_per_s=12345.6,
        free_pages=1000,
        load=3,
        dtype="bfloat16",
        quant="int8",
        addrs=(f"/ip4/203.0.113.77/tcp/31337/p2p/{peer}",) * 4,
        public_name="somebody's server",
        version="0.1.0",
        expires_at=0.0,
        kernel="avx512",
        since=1e9,
        round_trips=((PeerId(peer), 0.05),) * 16,
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _median(routes: Sequence[Measured], name: str) -> float:
    return float(median([getattr(route, name) for route in routes] or [0.0]))
