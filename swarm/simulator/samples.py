"""What is looked at again and again while a simulated swarm lives, and what it could have reached at best."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from swarm.simulator.world import World

NUM_SAMPLES = 2000
"""Over the simulated time, but no closer than FINEST."""

FINEST = 5.0
"""Seconds between two samples at least."""

NUM_REFERENCES = 12
"""Times at which a placement is worked out by somebody who knows all."""

SWEEPS = 6
"""How often such a placement is gone through again."""


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

    The heaviest first, each to the window whose worst blocks are worst; then all are taken up and put
    down again some times. No proof that it is the best, but what one can do: the truth lies between this and
    the bound.
    """
    if not len(sizes):
        return 0.0
    shares = speeds / sizes
    order = np.argsort(-shares)
    level = np.zeros(num_blocks)
    starts = np.full(len(sizes), -1)
    best = 0.0
    for _ in range(SWEEPS):
        for index in order:
            size, share = int(sizes[index]), shares[index]
            if starts[index] >= 0:
                level[starts[index] : starts[index] + size] -= share
            windows = np.lib.stride_tricks.sliding_window_view(level, size)
            ranked = np.sort(windows, axis=1)[:, :3]  # the three worst blocks decide nearly always
            starts[index] = start = int(np.lexsort(ranked.T[::-1])[0])
            level[start : start + size] += share
        best = max(best, float(level.min()))
    return best
