"""A forked command is a process as any other: what the tests say of commands rests on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.demo.processes import Process
from tests import zygote
from tests.zygote import PRELOADED, ForkedPopen

pytestmark = pytest.mark.slow

TELL = """
import os, random, sys, threading
print(sys.argv[1:], os.environ.get("WORD"), os.getpgrp() == os.getpid(), random.random(), os.listdir("/proc/self/fd"))
print([name for name in sys.modules if name.split(".")[0] == "swarm"], __name__, threading.active_count())
sys.stderr.write(sys.stdin.read())
"""


def command(code: str, *words: str) -> list[str]:
    return [sys.executable, "-c", code, *words]


def test_it_has_its_own_words_variables_files_and_chance_and_nothing_of_ours() -> None:
    first, second = (zygote.run(command(TELL, "a", "b c"), "typed", timeout=30, env={"WORD": "x"}) for _ in range(2))
    assert first.returncode == 0 and first.stderr == "typed"
    lines = first.stdout.splitlines()
    assert lines[0].startswith("['a', 'b c'] x False ") and lines[0].endswith("['0', '1', '2', '3']")  # 3 lists them
    assert lines[1] == "[] __main__ 1"
    assert first.stdout != second.stdout  # each has other random numbers


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("pass", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('a reason')", 1, "a reason\n"),
        ("import atexit; atexit.register(print, 'bye'); 1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt\n"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import threading, time; threading.Thread(target=lambda: time.sleep(0.2) or print('bye')).start()", 0, ""),
    ],
)
def test_it_ends_as_python_ends(code: str, status: int, told: str) -> None:
    forked = zygote.run(command(code), timeout=30)
    plain = subprocess.run(command(code), capture_output=True, text=True, timeout=30)
    assert forked.returncode == plain.returncode == status
    assert forked.stdout == plain.stdout == ("bye\n" if "bye" in code else "")
    assert forked.stderr.endswith(told) and plain.stderr.endswith(told) and bool(forked.stderr) == bool(told)


def test_modules_and_files_run_where_they_are_asked_to(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("WORD = 'found'")
    (tmp_path / "script.py").write_text("import neighbour, sys; print(neighbour.WORD, __name__, sys.argv)")
    script = str(tmp_path / "script.py")
    assert zygote.run([sys.executable, script, "x"], timeout=30).stdout == f"found __main__ ['{script}', 'x']\n"
    told = zygote.run([sys.executable, "-m", "swarm.server", "--help"], timeout=30)
    assert told.returncode == 0 and told.stdout.startswith("usage: python -m swarm.server")


def test_it_can_be_watched_and_signalled_in_a_group_of_its_own() -> None:
    code = "import os, time; print(os.getpgrp() == os.getpid(), flush=True); time.sleep(60)"
    with ForkedPopen(command(code), stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(5) == -signal.SIGTERM and process.poll() == -signal.SIGTERM


def test_swarms_of_the_tests_are_started_so(tmp_path: Path) -> None:
    process = Process.start("swarm.server", "--help", log=tmp_path / "log")
    assert isinstance(process.popen, ForkedPopen) and process.wait_stopped() == 0


def test_what_it_has_loaded_is_not_loaded_again() -> None:
    code = f"import sys; print(*(name for name in {PRELOADED} if name not in sys.modules))"
    assert zygote.run(command(code), timeout=30).stdout == "\n"
