"""The command line: flags to config to objects.

The only room that reads argv and the environment. `parse_flags` builds a config dataclass from argv,
`run` drives a command's main coroutine until it ends or is told to, `initial_peers` says which swarm to join.
"""

from swarm.cli.flags import parse_flags
from swarm.cli.peers import initial_peers
from swarm.cli.run import run, run_plain

__all__ = ["initial_peers", "parse_flags", "run", "run_plain"]
