"""What a starting server tells its owner."""

from __future__ import annotations

from swarm.server.face.console import ready_texts
from tests.planning.views import record

ID = "12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL"


def test_the_owner_is_told_what_is_served_and_how_others_come() -> None:
    serving, how, leaving = ready_texts(record("us", 0, 10, num_blocks=30), f"/ip4/192.0.2.7/tcp/1/p2p/{ID}")
    assert "blocks 0:10" in serving and "0:30" in serving and "for other servers" in serving
    assert f"--initial-peers /ip4/192.0.2.7/tcp/1/p2p/{ID}" in how and "Ctrl-C" in leaving


def test_who_listens_on_loopback_only_is_told_so() -> None:
    texts = ready_texts(record("us", 0, 30, num_blocks=30), f"/ip4/127.0.0.1/tcp/1/p2p/{ID}")
    assert "all 30 blocks" in texts[0] and "other servers" not in texts[0] and "this machine only" in texts[-1]
