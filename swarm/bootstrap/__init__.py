"""A peer that introduces others to each other: it listens, keeps a part of the directory, and serves no blocks.

`swarm.bootstrap.introducing.introduce` runs one; it is not imported here, so that `--help` answers at once.
"""

from swarm.bootstrap.config import BootstrapConfig

__all__ = ["BootstrapConfig"]
