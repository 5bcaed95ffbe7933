"""Thousands of servers that do not exist, placed and routed by the code that places and routes real ones.

Discrete events, seeded: the same flags give the same swarm. `swarm.simulator.world` runs one; it is not imported
here, so that `--help` answers at once.
"""

from swarm.simulator.config import SimulatorConfig

__all__ = ["SimulatorConfig"]
