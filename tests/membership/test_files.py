"""What is remembered on disk: the swarm joined last, and members met before."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from swarm.errors import UsageError
from swarm.membership import JoinedFile, JoinLine, PeerCache
from swarm.membership.peer_cache import MAX_ADDRS, MAX_FILES
from swarm.swarm_key import SwarmKey

ID = "12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL"
LINE = JoinLine((f"/ip4/10.0.0.1/tcp/1/p2p/{ID}",), SwarmKey.generate())


@pytest.fixture(autouse=True)
def folders_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("SWARM_PEERS", str(tmp_path / "peers"))


def addrs(count: int) -> list[str]:
    return [f"/ip4/10.0.{number // 250}.{number % 250}/tcp/4001/p2p/{ID}" for number in range(count)]


def test_the_swarm_joined_last_is_remembered_by_its_user_alone_until_it_is_left() -> None:
    assert JoinedFile.read() is None and not JoinedFile.remove()
    for joined in (JoinedFile(LINE), JoinedFile(JoinLine(LINE.peers), bootstrap_port=31337)):
        joined.write()
        assert JoinedFile.read() == joined
        assert stat.S_IMODE(joined.path().stat().st_mode) == 0o600
        assert stat.S_IMODE(joined.path().parent.stat().st_mode) == 0o700
    assert JoinedFile.remove() and JoinedFile.read() is None


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"version": 1}', b"\xff", b'{"version": 9, "line": "x"}', b"[" * 9000]
)
def test_a_damaged_file_says_what_to_do(content: bytes) -> None:
    JoinedFile(LINE).write()
    JoinedFile.path().write_bytes(content)
    with pytest.raises(UsageError, match=r"swarm leave|copy it again|no join line"):
        JoinedFile.read()
    assert JoinedFile.remove()


def test_a_file_that_others_may_read_is_refused() -> None:
    JoinedFile(LINE).write()
    JoinedFile.path().chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        JoinedFile.read()


def test_the_environment_says_where_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWARM_CONFIG")
    monkeypatch.delenv("SWARM_PEERS")
    monkeypatch.delenv("SWARM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "k"))
    assert JoinedFile.path() == tmp_path / "c" / "swarm" / "joined.json"
    cache = PeerCache.of((ID,), None)
    assert cache is not None and cache.path.parent == tmp_path / "k" / "swarm" / "peers"


def test_each_swarm_has_a_cache_of_its_own_and_a_nameless_one_none() -> None:
    key = SwarmKey.generate()
    caches = [PeerCache.of((ID,), None), PeerCache.of((ID,), key), PeerCache.of((ID, "other"), None)]
    assert len({cache and cache.path for cache in caches}) == 3
    assert PeerCache.of((), None) is None
    again = PeerCache.of(("anybody",), key)  # members of a private swarm come through many
    assert again is not None and caches[1] is not None and again.path == caches[1].path


def test_members_come_back_in_order_and_no_more_than_fit(tmp_path: Path) -> None:
    cache = PeerCache(tmp_path / "peers" / "one.txt")
    assert cache.read() == ()
    cache.write([*addrs(MAX_ADDRS + 10), "/ip4/10.0.0.1/tcp/1", "nonsense"])
    assert cache.read() == tuple(addrs(MAX_ADDRS))
    assert stat.S_IMODE(cache.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"swarm-peers-2\n",
        b"swarm-peers-1\nnonsense\n",
        b"swarm-peers-1\n/ip4/10.0.0.1/tcp/1\n",
        b"swarm-peers-1\n" + f"/ip4/10.0.0.1/tcp/1/p2p/{ID}\n".encode() * 65,
        b"swarm-peers-1\n" + b"/" * 100_000,
    ],
)
def test_a_cache_that_is_wrong_counts_for_nothing_and_costs_one_line(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "one.txt"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert PeerCache(path).read() == ()
    assert len(caplog.records) == 1 and str(path) in caplog.text
    PeerCache(path).write(addrs(2))
    assert PeerCache(path).read() == tuple(addrs(2))


def test_a_cache_that_cannot_be_written_costs_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        PeerCache(tmp_path / "file" / "one.txt").write(addrs(1))
    assert len(caplog.records) == 1


def test_swarms_of_long_ago_are_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "peers"
    for number in range(MAX_FILES + 3):
        PeerCache(folder / f"{number}.txt").write(addrs(1))
        os.utime(folder / f"{number}.txt", (1000 + number, 1000 + number))
    left = {path.stem for path in folder.glob("*.txt")}
    assert len(left) == MAX_FILES and {"0", "1", "2"}.isdisjoint(left)
