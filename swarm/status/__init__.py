"""One look at the swarm, on a terminal: what the monitor shows, once.

`looking.look` takes it; it is not imported here, so that `--help` answers at once.
"""

from swarm.status.config import StatusConfig
from swarm.status.table import as_text

__all__ = ["StatusConfig", "as_text"]
