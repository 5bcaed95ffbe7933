"""Which swarm this user is in: the join line, the swarm joined last, and members met before.

Knows files and texts, no network: `choose_swarm` says whom to ask and with which key, `PeerCache` keeps on disk
whom we have met.
"""

from swarm.membership.choosing import Joined, choose_swarm
from swarm.membership.join_line import JoinLine
from swarm.membership.joined_file import JoinedFile
from swarm.membership.peer_cache import PeerCache

__all__ = ["JoinLine", "Joined", "JoinedFile", "PeerCache", "choose_swarm"]
