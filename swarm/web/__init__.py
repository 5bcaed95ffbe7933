"""What every HTTP face of the swarm shares: listening, keys, pages, metrics. No routes of its own, no peers.

A page of another origin can send requests to a server on the reader's own machine: `guard` refuses those, and whoever
listens on more than loopback needs keys (`require_keys`).
"""

from swarm.web.face import operators_face
from swarm.web.guard import guard
from swarm.web.keys import Keys, require_keys
from swarm.web.metrics import add_metrics
from swarm.web.pages import add_page
from swarm.web.readings import counter, facts, gauge
from swarm.web.serving import serving

__all__ = [
    "Keys",
    "add_metrics",
    "add_page",
    "counter",
    "facts",
    "gauge",
    "guard",
    "operators_face",
    "require_keys",
    "serving",
]
