"""The swarm's directory: signed records in a DHT, the view of them, and announcing one's own.

`Directory.open` joins through initial peers and stays joined; `Announcer` keeps a server's record
alive. Values in the DHT are checked by `SignedRecords` wherever they are stored or read.
"""

from swarm.directory.announcer import Announcer
from swarm.directory.config import Timeouts
from swarm.directory.directory import Directory
from swarm.directory.signed import SignedRecords

__all__ = ["Announcer", "Directory", "SignedRecords", "Timeouts"]
