"""`python -m tests`: all but the long tests run, each once, and what any of them says and does counts."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
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
    yield path
    path.write_text("cleaned up")

@pytest.mark.slow
def test_slow(kept): kept.write_text("begun"); time.sleep(60)

def test_other(kept): kept.write_text("begun"); time.sleep(60)
"""


SHARED = """
import os, pathlib, time, pytest

FILE = pathlib.Path(__file__)
RAN = FILE.with_name("ran")

def note(what):
    with open(RAN, "a") as ran: print(os.getpid(), FILE.stem, what, file=ran)

def num_runs_with_slow_tests():
    return len({line.split()[0] for line in RAN.read_text().splitlines() if "slow" in line})

@pytest.fixture(scope="module", autouse=True)
def swarm(): note("begins"); yield; note("ends")

def test_other(): note("other")

@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_slow(number):
    note(f"slow{number}")
    deadline = time.monotonic() + 60
    while num_runs_with_slow_tests() < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert FILE.stem != "test_{fails}"
"""


def start(
    folder: Path, text: str, files: Sequence[str] = ("some",), *, preexec_fn: Callable[[], object] | None = None
) -> subprocess.Popen[str]:
    for name in files:
        (folder / f"test_{name}.py").write_text(text)
    words = [str(folder), "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "-p", "no:cacheprovider", "-s"]
    command = [sys.executable, "-m", "tests", *words]
    out = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, text=True, preexec_fn=preexec_fn)


def counts(said: str) -> list[int]:
    """How many passed, failed and were deselected, by what the two runs say at their ends."""
    ends = " ".join(re.findall("^=.* in .*s =", said, re.M))
    return [sum(map(int, re.findall(rf"(\d+) {word}", ends))) for word in ("passed", "failed", "deselected")]


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["", "slow", "other"])
def test_both_kinds_run_and_either_can_fail(fails: str, tmp_path: Path) -> None:
    run = start(tmp_path, KINDS.format(fails=fails))
    said, _ = run.communicate(timeout=60)
    assert (run.returncode != 0) == bool(fails), said
    assert sorted((tmp_path / "ran").read_text().split()) == ["other", "slow"], said
    assert counts(said) == ([1, 1, 4] if fails else [2, 0, 4]), said


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["", "a", "d"])
def test_the_slow_files_are_shared_once_the_others_are_done(fails: str, tmp_path: Path) -> None:
    run = start(tmp_path, SHARED.replace("{fails}", fails), "abcd")
    said, _ = run.communicate(timeout=120)
    assert (run.returncode != 0) == bool(fails), said
    assert counts(said) == ([10, 2, 12] if fails else [12, 0, 12]), said
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    of_run = {pid: [(file, what) for by, file, what in ran if by == pid] for pid, *_ in ran}
    slow, helping = sorted(of_run.values(), key=lambda run: ("test_a", "other") in run)
    begun = [[file for file, what in run if what == "slow1"] for run in (slow, helping)]
    assert all(begun) and begun[0] + begun[1][::-1] == ["test_a", "test_b", "test_c", "test_d"], said
    others = [("test_" + name, what) for name in "abcd" for what in ("begins", "other", "ends")]
    for run, before in (slow, []), (helping, others):
        files = [file for file, what in run[len(before) :] if what == "begins"]
        assert run == before + [(file, what) for file in files for what in ("begins", "slow1", "slow2", "ends")], said


@pytest.mark.slow
@pytest.mark.parametrize(("text", "status"), [("def test_other(): pass", 0), ("", pytest.ExitCode.NO_TESTS_COLLECTED)])
def test_where_one_kind_is_missing_the_other_decides(text: str, status: int, tmp_path: Path) -> None:
    run = start(tmp_path, text)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == status, said


@pytest.mark.slow
def test_told_to_end_both_clean_up_first(tmp_path: Path) -> None:
    # Started as by a shell in the background, which has this signal ignored.
    run = start(tmp_path, PATIENT, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    kept = [tmp_path / "test_slow", tmp_path / "test_other"]
    deadline = time.monotonic() + 60
    while not all(path.exists() and path.read_text() for path in kept):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    said, _ = run.communicate(timeout=30)
    assert run.returncode != 0 and [path.read_text() for path in kept] == ["cleaned up"] * 2, said
