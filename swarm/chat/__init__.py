"""A conversation in the terminal: what is typed goes to the swarm, words come back as they are chosen.

`swarm.chat.talk.talk` holds one; it is not imported here, so that `--help` answers at once.
"""

from swarm.chat.config import ChatConfig

__all__ = ["ChatConfig"]
