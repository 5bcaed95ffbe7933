"""What is looked at again and again while a simulated swarm lives, and what it could have reached at best."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from swarm.simulator.world import World

NUM_SAMPLES = 2000
"""Over the simulated time, but no closer than FINEST."""

FINEST = 5.0
"""Seconds between two samples at least."""

NUM_REFERENCES = 6
"""Times at which a placement is worked out by somebody who knows all."""

SWEEPS = 6
"""How often such a placement is gone through again."""

MANY = 300
"""Servers from which on one order is tried and windows are compared less closely: they differ little."""

MAX_ORDERS = 4
"""Orders that are tried for few servers."""


@dataclass(slots=True)
class Samples:
    """Series over the simulated time.

    Attributes:
        times: Seconds since the beginning.
        bare: Blocks without a server, of the main side.
        bottleneck: Tokens/s of its weakest block.
        bound: Tokens/s that no placement of its servers can exceed: all work shared out evenly.
        alive: Its servers.
        references: Seconds, and tokens/s of the weakest block in a placement by somebody who knows all.
    """

    world: World
    times: list[float] = field(default_factory=list)
    bare: list[int] = field(default_factory=list)
    bottleneck: list[float] = field(default_factory=list)
    bound: list[float] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)
    references: list[tuple[float, float]] = field(default_factory=list)

    def begin(self) -> None:
        """Take samples from now on."""
        seconds = self.world.config.seconds
        interval = max(FINEST, seconds / NUM_SAMPLES)

        def take() -> None:
            self._take()
            self.world.at(self.world.seconds + interval, take)

        self.world.at(0.0, take)
        for index in range(NUM_REFERENCES):
            self.world.at((index + 0.5) * seconds / NUM_REFERENCES, self._refer)

    def _take(self) -> None:
        side = self.world.ledger.main
        self.times.append(self.world.seconds)
        self.bare.append(side.num_bare)
        self.bottleneck.append(side.bottleneck)
        self.bound.append(side.total_speed / self.world.config.blocks)
        self.alive.append(side.num_alive)

    def _refer(self) -> None:
        machines = [s.machine for s in self.world.servers.values() if not s.is_cut]
        level = best_known(
            np.array([machine.size for machine in machines]),
            np.array([machine.speed for machine in machines]),
            self.world.config.blocks,
        )
        self.references.append((self.world.seconds, level))


def best_known(sizes: np.ndarray, speeds: np.ndarray, num_blocks: int) -> float:
    """Return the weakest block's tokens/s in a good placement, worked out with full knowledge and free moves.

    Each in turn, the heaviest first, to the window whose worst blocks are worst; then all are taken up and put
    down again some times, in other orders too. No proof that it is the best, but what one can do: the truth lies
    between this and the bound.
    """
    shares = speeds / np.maximum(1, sizes)
    chance = np.random.default_rng(0)
    by_weight, best = np.argsort(-shares), 0.0
    for attempt in range(1 + MANY // max(MANY // MAX_ORDERS, len(sizes))):
        order = by_weight if attempt == 0 else chance.permutation(len(sizes))
        best = max(best, _settled(sizes, shares, order, num_blocks))
    return best


def _settled(sizes: np.ndarray, shares: np.ndarray, order: np.ndarray, num_blocks: int) -> float:
    level, starts, best = np.zeros(num_blocks), np.full(len(sizes), -1), 0.0
    depth = num_blocks if len(sizes) < MANY else 3  # of many servers the three worst blocks decide nearly always
    for _ in range(SWEEPS):
        for index in order:
            size, share = int(sizes[index]), shares[index]
            if starts[index] >= 0:
                level[starts[index] : starts[index] + size] -= share
            windows = np.lib.stride_tricks.sliding_window_view(np.round(level, 6), size)
            ranked = np.sort(windows, axis=1)[:, :depth]
            starts[index] = start = int(np.lexsort(ranked.T[::-1])[0])
            level[start : start + size] += share
        best = max(best, float(level.min()))
    return best
