"""How far simulated peers are from each other: cities on a plane, and each peer's own access line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

CITIES = {
    "Europe": (0.0, 0.0),
    "US East": (0.040, 0.000),
    "US West": (0.068, 0.008),
    "East Asia": (0.085, 0.055),
    "South America": (0.055, 0.055),
}
"""Seconds one way apart, roughly as the submarine cables run."""

SHARES = {"Europe": 0.35, "US East": 0.25, "US West": 0.15, "East Asia": 0.2, "South America": 0.05}
"""Of all peers."""

SPREAD = 0.006
"""Seconds, standard deviation of the distance from one's city in either direction."""

ACCESS = 0.004
"""Seconds one way, median of what a peer's own line adds: cable and fibre, some on radio."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a peer is.

    Attributes:
        city: One of CITIES.
        x: Seconds on the plane.
        y: As `x`.
        access: Seconds one way that its own line adds.
    """

    city: str
    x: float
    y: float
    access: float

    @classmethod
    def draw(cls, chance: Random) -> Place:
        """Return one at random."""
        city = chance.choices(list(SHARES), list(SHARES.values()))[0]
        x, y = CITIES[city]
        access = min(0.1, chance.lognormvariate(math.log(ACCESS), 0.8))
        return cls(city=city, x=x + chance.gauss(0, SPREAD), y=y + chance.gauss(0, SPREAD), access=access)


def round_trip(one: Place, other: Place) -> float:
    """Return the seconds there and back."""
    return 2 * (math.hypot(one.x - other.x, one.y - other.y) + one.access + other.access)
