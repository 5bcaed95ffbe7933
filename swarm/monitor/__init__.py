"""The health monitor: what the swarm looks like to its own router, as a live page, an API, metrics and a history.

`survey` turns views into what is shown, without I/O; `swarm.status` uses it as well. `running.monitor` runs it all; it
is not imported here, so that `--help` answers at once.
"""

from swarm.monitor.config import MonitorConfig
from swarm.monitor.state import Alert, Level, Listed, ModelState, Standing, SwarmState
from swarm.monitor.surveying import survey

__all__ = ["Alert", "Level", "Listed", "ModelState", "MonitorConfig", "Standing", "SwarmState", "survey"]
