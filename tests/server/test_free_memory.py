"""What a container's limit leaves."""

from __future__ import annotations

from pathlib import Path

import psutil

from swarm.server.free_memory import cgroup_rooms, free_memory


def group(path: Path, *, limit: str, used: int, given_back: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "memory.max").write_text(f"{limit}\n")
    (path / "memory.current").write_text(f"{used}\n")
    (path / "memory.stat").write_text(f"anon 1\ninactive_file {given_back}\nactive_file 5\n")


def test_each_limit_around_us_counts_and_cached_files_are_room(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("1:name=systemd:/x\n0::/machine/swarm\n")
    group(tmp_path / "machine", limit="1000", used=400, given_back=100)
    group(tmp_path / "machine/swarm", limit="max", used=300, given_back=0)
    assert cgroup_rooms(tmp_path, own) == [700]
    group(tmp_path / "machine/swarm", limit="500", used=600, given_back=0)
    assert sorted(cgroup_rooms(tmp_path, own)) == [0, 700]


def test_a_container_finds_its_own_limit_at_the_root(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/\n")
    group(tmp_path, limit="1000", used=1, given_back=0)
    assert cgroup_rooms(tmp_path, own) == [999]


def test_without_limits_what_the_machine_has_free_counts(tmp_path: Path) -> None:
    assert cgroup_rooms(tmp_path, tmp_path / "none") == []
    assert 0 < free_memory() <= psutil.virtual_memory().total
