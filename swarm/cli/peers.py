"""Which swarm a command joins."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from swarm.membership import Joined, choose_swarm


def which_swarm(initial_peers: Sequence[str], *, new_swarm: bool = False, swarm_key: str | None = None) -> Joined:
    """Return the peers to ask first, and the swarm's key.

    Those of `initial_peers` if there are any, else those of the swarm joined last, else the packaged public ones,
    which one line on stderr tells: strangers will then serve the blocks. The addresses are not parsed here.

    Args:
        initial_peers: As the flag says.
        new_swarm: Nobody is asked.
        swarm_key: The file that the flag says; it counts in all cases.

    Raises:
        UsageError: Flags that exclude each other, a file that cannot be used, or nobody to ask.
    """
    return choose_swarm(initial_peers, tell=_tell, new_swarm=new_swarm, swarm_key=swarm_key)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
