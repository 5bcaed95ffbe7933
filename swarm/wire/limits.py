"""The bounds of the wire, checked before memory is taken."""

from __future__ import annotations

MAX_HEADER_BYTES = 64 * 1024
"""A header holds ids, ranges, hashes and a short text; 2,048 rows take about 36 KiB."""

MAX_BODY_BYTES = 64 * 1024 * 1024
"""1,024 tokens of a model 16,384 wide in float32; longer prefills travel in chunks."""

MAX_ROWS = 2048
"""Sequences in one step."""

MAX_POSITION = 1 << 24
"""Slots of a sequence; the model's own context is the tighter bound."""

MAX_BLOCKS = 4096
"""Blocks of a model; the deepest known ones have a few hundred."""

MAX_HOPS = 256
"""Hops of a route."""

MAX_ADDRS = 16
"""Multiaddrs that a record or a message gives for one peer."""

MAX_TEXT = 1024
"""Characters of an error text, a name or a multiaddr."""

SESSION_BYTES = 16
"""A session id is random and secret between the client and its hops: knowing it authorises a push."""

NONCE_BYTES = 32
"""What each side of a greeting chooses anew; two that are equal by chance are not to be expected."""

PROOF_BYTES = 32
"""Of the proof that a peer has the swarm's key: a whole SHA-256."""

HASH_BYTES = 16
"""Of a page's tokens and all before them; two that differ meet by chance once in 2**64 pages."""

MAX_HASHES = 1024
"""In one message: 16,384 tokens of a prompt, 16 KiB of a header. What is beyond is computed anew."""

MAX_PRIORITY = 9
"""The last to be served of a client's sessions."""

MAX_STATS = 64
"""Numbers that a server tells of itself."""
