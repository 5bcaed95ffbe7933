"""Which swarm a command joins."""

from __future__ import annotations

import pytest

from swarm.cli import initial_peers, peers
from swarm.errors import UsageError

ADDR = "/ip4/203.0.113.7/tcp/31337/p2p/12D3KooWExample"


def test_given_peers_are_taken_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert initial_peers([ADDR], False) == (ADDR,)
    assert capsys.readouterr().err == ""


def test_a_new_swarm_has_no_initial_peers() -> None:
    assert initial_peers((), True) == ()


def test_a_new_swarm_with_peers_is_a_contradiction() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        initial_peers([ADDR], True)


def test_nobody_given_and_nobody_packaged_tells_both_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "public_peers", tuple)
    with pytest.raises(UsageError, match=r"--initial-peers ADDR.*--new-swarm"):
        initial_peers((), False)


def test_joining_the_public_swarm_is_told_loudly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "public_peers", lambda: (ADDR,))
    assert initial_peers((), False) == (ADDR,)
    assert capsys.readouterr().err == f"joining the PUBLIC swarm through {ADDR}\n"


def test_the_packaged_list_is_readable_and_holds_whole_multiaddrs() -> None:
    assert all(addr.startswith("/") and "/p2p/" in addr for addr in peers.public_peers())
