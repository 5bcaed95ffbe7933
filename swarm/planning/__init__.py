"""Pure decisions over a view: what is covered, which route to take, which span to serve.

No socket, no clock, no torch: the same code runs in servers, clients and the simulator.
"""

from swarm.planning.advice import Advice, advise, worth_moving
from swarm.planning.agreement import Agreement, agree
from swarm.planning.costs import Costs
from swarm.planning.coverage import coverage, format_spans, missing_spans
from swarm.planning.outlook import Outlook
from swarm.planning.placement import choose_span
from swarm.planning.placer import Act, Decision, Placer
from swarm.planning.routing import find_route
from swarm.planning.sampling import sample

__all__ = [
    "Act",
    "Advice",
    "Agreement",
    "Costs",
    "Decision",
    "Outlook",
    "Placer",
    "advise",
    "agree",
    "choose_span",
    "coverage",
    "find_route",
    "format_spans",
    "missing_spans",
    "sample",
    "worth_moving",
]
