"""The build of the native kernels: with a compiler, and without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree"),
    pytest.mark.slow,
]


def _build(folder: Path, **compiler: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "setup.py", "build_ext", "--build-lib", str(folder), "--build-temp", str(folder / "temp")]
    env = {**os.environ, **compiler}
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)


def _built(folder: Path) -> list[Path]:
    return list(folder.glob("swarm/blocks/native/_kernels*.so"))


@pytest.mark.parametrize("compiler", ["/bin/false", "no-such-compiler"])
def test_without_a_compiler_the_build_goes_on_and_says_what_is_lost(compiler: str, tmp_path: Path) -> None:
    done = _build(tmp_path, CC=compiler, CXX=compiler)
    assert done.returncode == 0, done.stderr
    assert "the native kernels were not built" in done.stderr and "several times slower" in done.stderr
    assert not _built(tmp_path)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_the_build_makes_one_library_without_symbols_that_two_instruction_sets_could_share(tmp_path: Path) -> None:
    done = _build(tmp_path)
    assert done.returncode == 0 and "were not built" not in done.stderr, done.stderr
    assert len(_built(tmp_path)) == 1
    # A weak symbol (an inline function) in a file compiled for AVX512 could be the copy that other CPUs then run.
    for file in (tmp_path / "temp").rglob("*avx*.o"):
        symbols = subprocess.run(["nm", str(file)], check=True, capture_output=True, text=True).stdout.splitlines()
        assert not [line for line in symbols if line.split()[-2] in "WVu"], file
