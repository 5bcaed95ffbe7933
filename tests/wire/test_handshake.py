from __future__ import annotations

import pytest

from swarm.errors import VersionMismatch
from swarm.wire import Hello, decode, encode
from swarm.wire.handshake import NEWEST, OLDEST, agree, our_hello


def test_we_agree_with_ourselves_on_our_newest_version() -> None:
    hello = decode(encode(our_hello()))
    assert isinstance(hello, Hello) and agree(hello) == NEWEST


def test_with_a_newer_peer_that_still_speaks_ours_we_agree_on_ours() -> None:
    assert agree(Hello(OLDEST, NEWEST + 7, "9.9")) == NEWEST


def test_without_a_common_version_both_sides_are_named() -> None:
    with pytest.raises(
        VersionMismatch, match=rf"{NEWEST + 1}\.\.{NEWEST + 2} \(swarm 9\.9\).*we speak {OLDEST}\.\.{NEWEST}"
    ):
        agree(Hello(NEWEST + 1, NEWEST + 2, "9.9"))
