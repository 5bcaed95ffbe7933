"""The Makefile, run by the real make in a folder whose `.venv` only writes down how it was called."""

from __future__ import annotations

import os
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
RECORDER = r"""#!/bin/sh
printf '%s\0' "$@" >> calls
printf '\n\0' >> calls
case "$*" in *"$FAIL_ON"*) [ -z "$FAIL_ON" ] || exit 1;; esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def _house(folder: Path, *, installed: bool = True) -> Path:
    for name in ("Makefile", "setup.cfg", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(RECORDER)
    python.chmod(0o755)
    if installed:
        (folder / ".venv/.installed").touch()
    return folder


def _make(folder: Path, *words: str, fail_on: str = "") -> subprocess.CompletedProcess[str]:
    # Not the environment of the make that may be running these tests.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "PROMPT")}
    (folder / "calls").unlink(missing_ok=True)
    return subprocess.run(
        ["make", *words], cwd=folder, env={**env, "FAIL_ON": fail_on}, capture_output=True, text=True, timeout=30
    )


def _calls(folder: Path) -> list[list[str]]:
    if not (folder / "calls").exists():
        return []
    return [call.split("\0")[:-1] for call in (folder / "calls").read_text().split("\n\0")[:-1]]


@pytest.mark.parametrize("prompt", ["""it's "$5" & `id` $HOME \\n %s""", "$(shell id) ${HOME} $(", "-x", "a\tb"])
def test_the_prompt_reaches_the_demo_as_it_was_typed(prompt: str, tmp_path: Path) -> None:
    assert _make(_house(tmp_path), "demo", f"PROMPT={prompt}").returncode == 0
    assert _calls(tmp_path)[-1] == ["-m", "swarm.demo", f"--prompt={prompt}"]


def test_without_a_prompt_none_is_passed(tmp_path: Path) -> None:
    _make(_house(tmp_path), "demo")
    assert _calls(tmp_path) == [["-m", "swarm.blocks.files.bundled"], ["-m", "swarm.demo"]]


def test_make_test_lints_first_and_ends_with_the_test_runner(tmp_path: Path) -> None:
    _make(_house(tmp_path), "test")
    calls = _calls(tmp_path)
    assert [call[1] for call in calls] == ["ruff", "mypy", "swarm.blocks.files.bundled", "tests"]


def test_installation_takes_torch_first_and_alone(tmp_path: Path) -> None:
    assert _make(_house(tmp_path, installed=False), "venv").returncode == 0
    installs = [call[3:] for call in _calls(tmp_path) if call[:3] == ["-m", "pip", "install"]]
    assert installs == [
        ["--no-deps", "-c", "constraints.txt", "torch"],
        ["-c", "constraints.txt", "-e", ".[dev]"],
    ]


def test_a_second_run_installs_nothing_until_the_pins_change(tmp_path: Path) -> None:
    _make(_house(tmp_path, installed=False), "venv")
    _make(tmp_path, "venv")
    assert _calls(tmp_path) == []
    later = (tmp_path / ".venv/.installed").stat().st_mtime + 10
    os.utime(tmp_path / "constraints.txt", (later, later))
    _make(tmp_path, "venv")
    assert _calls(tmp_path) != []


def test_a_failed_installation_is_taken_up_again(tmp_path: Path) -> None:
    assert _make(_house(tmp_path, installed=False), "venv", fail_on="-e .[dev]").returncode != 0
    assert not (tmp_path / ".venv/.installed").exists()
    assert _make(tmp_path, "venv").returncode == 0
    assert (tmp_path / ".venv/.installed").exists()


def test_no_python_is_told_with_the_remedy(tmp_path: Path) -> None:
    result = _make(_house(tmp_path, installed=False), "venv", "PYTHON=no-such-python")
    assert result.returncode != 0
    assert "install Python 3.11 or newer" in result.stderr


def test_the_pinned_set_satisfies_the_ranges_of_the_package() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    facts = ConfigParser(interpolation=None)
    facts.read(ROOT / "setup.cfg")
    wanted = facts["options"]["install_requires"] + facts["options.extras_require"]["test"]
    wanted += facts["options.extras_require"]["lint"]
    for requirement in map(Requirement, wanted.split("\n")[1:]):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
