"""The command line: flags to config to objects.

The only room that reads argv and the environment. `parse_flags` builds a config dataclass from argv,
`run` drives a command's main coroutine until it ends or is told to, `which_swarm` says which swarm to join.
"""

from swarm.cli.flags import parse_flags
from swarm.cli.peers import which_swarm
from swarm.cli.run import run, run_plain

__all__ = ["parse_flags", "run", "run_plain", "which_swarm"]
