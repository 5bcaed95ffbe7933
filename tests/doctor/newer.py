"""A server of a later version of the protocol: `python -m tests.doctor.newer` with a server's flags."""

from __future__ import annotations

import sys

from swarm.server.__main__ import main
from swarm.wire import handshake

if __name__ == "__main__":
    handshake.OLDEST = handshake.NEWEST = 99
    sys.exit(main())
