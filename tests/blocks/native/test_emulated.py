"""The kernels for AVX512, whose instructions are emulated where the machine has none, under the tests of the others."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from swarm.blocks.native.binding import library

ROOT = Path(__file__).parents[3]
NATIVE = Path("swarm/blocks/native")
COMPILER = shutil.which("c++")

FLAGS = ["-std=c++17", "-ffp-contract=off", "-fPIC", "-pthread", "-w", "-mavx2", "-mfma", "-mf16c"]
EMULATED = ["-O1", "-include", str(Path(__file__).with_name("emulated_avx512.h"))]

SHORT = "test_a_layer_computes or test_codes_mean or (test_the_bits_of_a_row and (50 or 96))"
"""Of each format: right numbers, a GGUF's own codes, and the same bits in any company."""

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64" or COMPILER is None, reason="needs a C++ compiler for x86"),
    pytest.mark.skipif(library() is None or not library().swarm_kernel_runs(b"avx2"), reason="needs AVX2"),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, whose library has AVX512 on any machine."""
    folder = tmp_path_factory.mktemp("emulated")
    shutil.copytree(ROOT / "swarm", folder / "swarm", ignore=shutil.ignore_patterns("__pycache__", "*.so"))

    def compiled(source: Path) -> str:
        is_emulated = source.stem.endswith("avx512") or source.stem == "kernels"  # the latter asks what the machine has
        target = str(folder / f"{source.stem}.o")
        words = [str(COMPILER), *FLAGS, *(EMULATED if is_emulated else []), "-c", str(source), "-o", target]
        subprocess.run(words, check=True, timeout=280)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sorted((ROOT / NATIVE / "src").glob("*.cpp"))))
    target = folder / NATIVE / f"_kernels{EXTENSION_SUFFIXES[0]}"
    subprocess.run([str(COMPILER), "-shared", "-pthread", *objects, "-o", str(target)], check=True, timeout=60)
    return folder


def _run_tests(package: Path, *words: str, timeout: float) -> str:
    """Run tests of this folder on the emulated kernels; return what they said."""
    environment = {**os.environ, "PYTHONPATH": f"{package}:{ROOT}", "SWARM_KERNEL": "avx512vnni"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    command += ["-o", f"pythonpath={package} {ROOT}", *words]
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


@pytest.mark.slow
def test_emulated_layers_compute_what_they_should(package: Path) -> None:
    code = "from swarm.blocks.native.binding import kernel_name; import swarm; print(kernel_name(), swarm.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(package), "SWARM_KERNEL": ""}
    said = subprocess.check_output([sys.executable, "-c", code], cwd=package, env=environment, text=True, timeout=60)
    assert said.split() == ["avx512vnni", str(package / "swarm" / "__init__.py")], "the best there is, in the copy"
    said = _run_tests(package, "-k", SHORT, str(Path(__file__).with_name("test_linear.py")), timeout=200)
    assert "passed" in said and "skipped" not in said


@pytest.mark.long
def test_emulated_blocks_pass_the_tests_of_the_others(package: Path) -> None:
    here = Path(__file__).parent
    _run_tests(package, *(str(here / name) for name in ("test_linear.py", "test_span.py")), timeout=1800)
