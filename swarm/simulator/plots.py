"""Pictures of a simulated swarm."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # before pyplot: no window, no display

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from swarm.simulator.config import SimulatorConfig
from swarm.simulator.routes import RouteMeter
from swarm.simulator.samples import Samples
from swarm.simulator.scenarios import disturbed

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#d55e00", "#009e73", "#cc3311", "#888888"
"""Told apart by colour-blind eyes too."""

AIM = 0.8
"""Share of the bound that the weakest block should have."""

EVENTS = {"departure": "30 % leave", "crowd": "crowd comes", "region": "region cut off"}


def draw(folder: Path, config: SimulatorConfig, samples: Samples, routes: RouteMeter) -> list[Path]:
    """Draw what there is to draw into `folder`; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{config.scenario}-{config.servers}"
    drawn = [_save(_life(config, samples), folder / f"{name}.png")]
    if routes.measured:
        drawn.append(_save(_routes(config, routes), folder / f"{name}-routes.png"))
    return drawn


def _life(config: SimulatorConfig, samples: Samples) -> Figure:
    figure, (above, middle, below) = pyplot.subplots(
        3, 1, figsize=(9, 8), sharex=True, height_ratios=(3, 1.2, 1.4), layout="constrained"
    )
    figure.suptitle(
        f"{config.servers:,} servers, {config.blocks} blocks, scenario “{config.scenario}”, "
        f"mean lifetime {config.lifetime:g} h, seed {config.seed}"
        if config.lifetime and config.scenario != "start"
        else f"{config.servers:,} servers, {config.blocks} blocks, scenario “{config.scenario}”, seed {config.seed}"
    )
    unit, name = (3600.0, "hours") if config.hours > 1 else (60.0, "minutes")
    times = np.array(samples.times) / unit
    bound, level = np.array(samples.bound), np.array(samples.bottleneck)
    above.plot(times, bound, color=GREY, linewidth=1, label="bound: all work shared out evenly")
    above.plot(times, AIM * bound, color=GREY, linewidth=1, linestyle=":", label=f"{AIM:.0%} of the bound")
    above.plot(times, level, color=BLUE, linewidth=1.2, label="weakest block")
    if samples.references:
        at, best = np.array(samples.references).T
        above.plot(at / unit, best, "o", color=ORANGE, markersize=4, label="placement by somebody who knows all")
    above.set_ylim(0, 1.12 * max(bound.max(), 1e-9))
    above.set_ylabel("tokens/s")
    above.set_title("Throughput of the weakest block", fontsize=10, loc="left")
    above.legend(loc="lower right", fontsize=8)
    middle.fill_between(times, np.array(samples.bare), step="post", color=RED, linewidth=0.8)
    middle.set_ylim(0, max(1.0, 1.1 * max(samples.bare)))
    middle.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    middle.set_ylabel("blocks")
    covered = "none, ever" if not any(samples.bare) else f"most: {max(samples.bare)}"
    middle.set_title(f"Blocks without a server ({covered})", fontsize=10, loc="left")
    _moves(below, config, samples, unit)
    below.set_xlabel(f"simulated time, {name}")
    below.set_xlim(0, config.seconds / unit)
    for axes in (above, middle, below):
        axes.grid(alpha=0.25)
        _mark(axes, config, unit, is_named=axes is above)
    return figure


def _moves(axes: Axes, config: SimulatorConfig, samples: Samples, unit: float) -> None:
    """Servers, and moves, over the time."""
    edges = np.linspace(0, config.seconds, 61)
    counts, _ = np.histogram(samples.world.ledger.moved_at, bins=edges)
    axes.bar(edges[:-1] / unit, counts, width=np.diff(edges) / unit, align="edge", color=GREEN, label="moves")
    axes.set_ylim(0, max(1.0, 1.15 * counts.max()))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.set_ylabel(f"moves per {(edges[1] - edges[0]) / 60:.3g} min")
    axes.set_title("Servers that move to another span, and servers alive", fontsize=10, loc="left")
    alive = axes.twinx()
    alive.plot(np.array(samples.times) / unit, samples.alive, color=ORANGE, linewidth=1.2)
    alive.set_ylabel("servers alive", color=ORANGE)
    alive.set_ylim(0, 1.15 * max(samples.alive))


def _mark(axes: Axes, config: SimulatorConfig, unit: float, *, is_named: bool) -> None:
    """Show when the scenario brings what it brings."""
    if (times := disturbed(config)) is None:
        return
    begin, end = times[0] / unit, times[1] / unit
    if end > begin:
        axes.axvspan(begin, end, color=ORANGE, alpha=0.12)
    axes.axvline(begin, color=ORANGE, linewidth=1, linestyle="--")
    if is_named:
        axes.annotate(
            f" {EVENTS[config.scenario]}",
            (begin, 0.97),
            xycoords=("data", "axes fraction"),
            color=ORANGE,
            fontsize=9,
            va="top",
        )


def _routes(config: SimulatorConfig, routes: RouteMeter) -> Figure:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    figure.suptitle(
        f"{len(routes.measured)} clients' routes through {config.servers:,} servers, {config.blocks} blocks"
    )
    taken = 1e3 * np.array([route.taken for route in routes.measured])
    best = 1e3 * np.array([route.best for route in routes.measured])
    left.plot(best, taken, "o", color=BLUE, markersize=4, alpha=0.7, label="a client")
    high = 1.08 * max(taken.max(), best.max())
    for factor, style, name in ((1.0, "-", "best path"), (1.5, "--", "1.5 times"), (2.0, ":", "2 times")):
        left.plot([0, high], [0, factor * high], color=GREY, linewidth=1, linestyle=style, label=name)
    left.set_xlim(0, 1.15 * best.max())
    left.set_ylim(0, high)
    left.set_xlabel("best path, ms a step")
    left.set_ylabel("route found, ms a step")
    left.legend(fontsize=8, loc="upper left")
    ratios = np.sort(taken / best)
    right.step(ratios, np.arange(1, len(ratios) + 1) / len(ratios), where="post", color=BLUE)
    right.set_xlabel("route found ÷ best path")
    right.set_ylabel("share of clients")
    right.set_ylim(0, 1.02)
    right.set_xlim(left=0.95)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    return path
