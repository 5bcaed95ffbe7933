"""Loading the native library, and every reason for which there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.blocks.native import binding as subject
from swarm.blocks.native.binding import KERNELS, TORCH, kernel_name, library, why_not

needs_library = pytest.mark.skipif(library() is None, reason="the native kernels are not built")

SAY = "from swarm.blocks.native import kernel_name, why_not; print(kernel_name(), why_not(), sep='|')"


def _say(asked: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SWARM_KERNEL": asked}
    return subprocess.run([sys.executable, "-c", SAY], capture_output=True, text=True, timeout=60, env=env)


def test_either_there_is_a_library_or_a_reason() -> None:
    assert (library() is None) == (kernel_name() == TORCH) == (why_not() is not None)
    assert kernel_name() in (*KERNELS, TORCH)


def test_a_folder_without_a_library_is_a_reason(tmp_path: Path) -> None:
    found, reason = subject._open(tmp_path)
    assert found is None and reason is not None and "not built" in reason and "\n" not in reason


def test_a_file_that_is_no_library_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / f"_kernels{subject.EXTENSION_SUFFIXES[0]}").write_text("not one")
    found, reason = subject._open(tmp_path)
    assert found is None and reason is not None and "does not load" in reason


def test_a_library_that_lacks_a_function_is_a_reason(tmp_path: Path) -> None:
    # Any shared library will do: this one is Python's own, and knows nothing of ours.
    import _ctypes

    (tmp_path / f"_kernels{subject.EXTENSION_SUFFIXES[0]}").symlink_to(_ctypes.__file__)
    found, reason = subject._open(tmp_path)
    assert found is None and reason is not None and "swarm_kernel" in reason


@needs_library
def test_the_environment_can_ask_for_none() -> None:
    assert _say("torch").stdout.startswith("torch|SWARM_KERNEL=torch")


@needs_library
def test_the_environment_can_ask_for_another() -> None:
    assert _say("portable").stdout == "portable|None\n"
    assert _say("").stdout == f"{kernel_name()}|None\n" or os.environ.get("SWARM_KERNEL")


@needs_library
def test_a_kernel_that_does_not_exist_is_refused_with_the_names_of_those_that_do() -> None:
    said = _say("mmx").stderr
    assert "UsageError: SWARM_KERNEL=mmx is no kernel" in said and all(name in said for name in (*KERNELS, TORCH))


@needs_library
def test_a_kernel_that_this_cpu_cannot_run_is_refused() -> None:
    found = library()
    assert found is not None
    lacking = [name for name in KERNELS if not found.swarm_kernel_runs(name.encode())]
    if not lacking:
        pytest.skip("this CPU runs them all")
    assert f"SWARM_KERNEL={lacking[0]}: this CPU cannot run it" in _say(lacking[0]).stderr


@needs_library
def test_the_door_does_not_load_torch() -> None:
    code = f"import sys; {SAY}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
