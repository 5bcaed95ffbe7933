"""Pure decisions over a view: what is covered, which route to take, which span to serve.

No socket, no clock, no torch: the same code runs in servers, clients and the simulator.
"""

from swarm.planning.agreement import Agreement, agree
from swarm.planning.coverage import coverage, format_spans, missing_spans
from swarm.planning.placement import choose_span
from swarm.planning.routing import Costs, find_route

__all__ = [
    "Agreement",
    "Costs",
    "agree",
    "choose_span",
    "coverage",
    "find_route",
    "format_spans",
    "missing_spans",
]
