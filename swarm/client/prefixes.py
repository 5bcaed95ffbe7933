"""Names of pages and of the numbers in them: what lets a hop find again the pages that a prompt begins with; pure.

A page's hash covers its own tokens and, through the hash of the page before, all tokens before it. What a hop holds
for these tokens also depends on what computed its input: the checkpoint, the codec and the hops before. That is the
lineage, told once when a session opens; pages are found under equal lineages only.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence

from swarm.blocks import PAGE_SLOTS
from swarm.types import Hop
from swarm.wire.limits import HASH_BYTES, MAX_HASHES

MAX_KNOWN_PREFIXES = 16 * 1024
"""First pages of our own that are remembered; 1 MiB or so. A gateway's users share fewer beginnings than that."""

_PAGE = struct.Struct(f"<{PAGE_SLOTS}i")


def extend_hashes(hashes: Sequence[bytes], ids: Sequence[int]) -> list[bytes]:
    """Return the hashes of all full pages of a sequence.

    Args:
        hashes: Those of its first pages, known already.
        ids: All of its tokens.
    """
    known = list(hashes)
    for start in range(len(known) * PAGE_SLOTS, len(ids) - PAGE_SLOTS + 1, PAGE_SLOTS):
        page = _PAGE.pack(*ids[start : start + PAGE_SLOTS])
        before = known[-1] if known else b""
        known.append(hashlib.blake2b(before + page, digest_size=HASH_BYTES).digest())
    return known


def filled_pages(position: int, length: int) -> range:
    """Return which pages of a sequence become full when `length` tokens are appended at `position`."""
    return range(position // PAGE_SLOTS, (position + length) // PAGE_SLOTS)


def lineage(fingerprint: str, codec: str, hops: Sequence[Hop]) -> bytes:
    """Return what stands for all that decides about the numbers which the last of these hops holds for given tokens.

    Args:
        fingerprint: Of the model, and of whatever else decides about the embeddings.
        codec: In which activations travel.
        hops: The one that is told, and those before it, first one first.
    """
    words = [fingerprint, codec, *(f"{hop.peer} {hop.start} {hop.end}" for hop in hops)]
    return hashlib.blake2b("\n".join(words).encode(), digest_size=HASH_BYTES).digest()


class KnownPrefixes:
    """First pages that this process has had marked, the latest ones: only prompts that begin so are looked up.

    A fresh prompt therefore costs no question. Any thread may call.
    """

    def __init__(self, max_known: int = MAX_KNOWN_PREFIXES) -> None:
        self._max_known = max_known
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, first_page: bytes) -> None:
        """Remember the hash of a sequence's first page."""
        with self._lock:
            self._known[first_page] = None
            self._known.move_to_end(first_page)
            if len(self._known) > self._max_known:
                self._known.popitem(last=False)

    def wanted(self, ids: Sequence[int]) -> bytes:
        """Return the hashes to ask for, one behind the other, when a sequence is to begin with `ids`.

        Empty if its first page was never marked. At least one token is left to be computed.
        """
        if len(ids) <= PAGE_SLOTS:
            return b""
        first = extend_hashes((), ids[:PAGE_SLOTS])
        if first[0] not in self._known:
            return b""
        self.add(first[0])  # in use
        num_asked = min(len(ids) - 1, MAX_HASHES * PAGE_SLOTS)
        return b"".join(extend_hashes(first, ids[:num_asked]))
