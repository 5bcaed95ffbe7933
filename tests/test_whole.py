"""`python -m tests`: all but the long tests run, and what any of them says and does counts."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KINDS = """
import pathlib, pytest

def note(name):
    with open(pathlib.Path(__file__).with_name("ran"), "a") as ran: print(name, file=ran)

@pytest.mark.slow
def test_slow(): note("slow"); assert "slow" != {fails!r}

def test_other(): note("other"); assert "other" != {fails!r}

@pytest.mark.long
def test_long(): note("long")
"""
PATIENT = """
import pathlib, time, pytest

@pytest.fixture
def kept(request):
    path = pathlib.Path(request.fspath).parent / request.node.name
    path.write_text("")
    yield
    path.write_text("cleaned up")

@pytest.mark.slow
def test_slow(kept): time.sleep(60)

def test_other(kept): time.sleep(60)
"""


def start(folder: Path, text: str) -> subprocess.Popen[str]:
    (folder / "test_some.py").write_text(text)
    words = [str(folder), "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "-p", "no:cacheprovider", "-s"]
    command = [sys.executable, "-m", "tests", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["", "slow", "other"])
def test_both_kinds_run_and_either_can_fail(fails: str, tmp_path: Path) -> None:
    run = start(tmp_path, KINDS.format(fails=fails))
    said, _ = run.communicate(timeout=60)
    assert (run.returncode != 0) == bool(fails), said
    assert sorted((tmp_path / "ran").read_text().split()) == ["other", "slow"], said
    assert said.count("1 passed, 2 deselected") == (1 if fails else 2), said
    assert said.count("1 failed, 2 deselected") == (1 if fails else 0), said


@pytest.mark.slow
@pytest.mark.parametrize(("text", "status"), [("def test_other(): pass", 0), ("", pytest.ExitCode.NO_TESTS_COLLECTED)])
def test_where_one_kind_is_missing_the_other_decides(text: str, status: int, tmp_path: Path) -> None:
    run = start(tmp_path, text)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == status, said


@pytest.mark.slow
def test_told_to_end_both_clean_up_first(tmp_path: Path) -> None:
    run = start(tmp_path, PATIENT)
    kept = [tmp_path / "test_slow", tmp_path / "test_other"]
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in kept):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    said, _ = run.communicate(timeout=30)
    assert run.returncode != 0 and [path.read_text() for path in kept] == ["cleaned up"] * 2, said
