"""Which swarm a command joins."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.cli import which_swarm
from swarm.errors import UsageError
from swarm.membership import Joined, JoinedFile, JoinLine, choosing
from swarm.swarm_key import SwarmKey

ADDR = "/ip4/203.0.113.7/tcp/31337/p2p/12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL"
OTHER = ADDR.replace("113.7", "113.8")


@pytest.fixture(autouse=True)
def settings_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_CONFIG", str(tmp_path / "config"))


@pytest.fixture
def key(tmp_path: Path) -> tuple[str, SwarmKey]:
    made = SwarmKey.generate()
    made.write(tmp_path / "swarm.key")
    return str(tmp_path / "swarm.key"), made


def test_given_peers_are_taken_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert which_swarm([ADDR]) == Joined((ADDR,), None)
    assert capsys.readouterr().err == ""


def test_a_new_swarm_has_no_initial_peers(key: tuple[str, SwarmKey]) -> None:
    assert which_swarm((), new_swarm=True) == Joined((), None)
    assert which_swarm((), new_swarm=True, swarm_key=key[0]) == Joined((), key[1])


def test_a_new_swarm_with_peers_is_a_contradiction() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        which_swarm([ADDR], new_swarm=True)


def test_nobody_given_and_nobody_packaged_tells_the_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "public_peers", tuple)
    with pytest.raises(UsageError, match=r"--initial-peers ADDR.*swarm join.*--new-swarm"):
        which_swarm(())


def test_joining_the_public_swarm_is_told_loudly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "public_peers", lambda: (ADDR,))
    assert which_swarm(()) == Joined((ADDR,), None)
    assert capsys.readouterr().err == f"joining the PUBLIC swarm through {ADDR}\n"


def test_the_swarm_joined_last_is_taken_where_no_peers_are_given_and_only_there(
    key: tuple[str, SwarmKey], capsys: pytest.CaptureFixture[str]
) -> None:
    mine = SwarmKey.generate()
    JoinedFile(JoinLine((OTHER,), mine)).write()
    assert which_swarm(()) == Joined((OTHER,), mine)
    assert which_swarm([ADDR]) == Joined((ADDR,), None)  # those peers are of another swarm, which has no key
    assert which_swarm((), new_swarm=True) == Joined((), None)
    assert capsys.readouterr().err == ""


def test_a_key_that_is_given_always_counts(key: tuple[str, SwarmKey]) -> None:
    assert which_swarm([ADDR], swarm_key=key[0]) == Joined((ADDR,), key[1])
    JoinedFile(JoinLine((OTHER,), SwarmKey.generate())).write()
    assert which_swarm((), swarm_key=key[0]) == Joined((OTHER,), key[1])


def test_a_key_is_never_taken_to_the_public_swarm(key: tuple[str, SwarmKey], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "public_peers", lambda: (ADDR,))
    with pytest.raises(UsageError, match="nobody to join"):
        which_swarm((), swarm_key=key[0])


def test_the_packaged_list_is_readable_and_holds_whole_multiaddrs() -> None:
    assert all(addr.startswith("/") and "/p2p/" in addr for addr in choosing.public_peers())
