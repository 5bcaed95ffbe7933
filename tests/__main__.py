"""`python -m tests`: what `make test` runs. Slow tests mostly wait for processes; the others run beside them.

The run that is through with the others helps with the slow ones, from the last file on (`tests/sharing.py`).
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time

import pytest

SLOW, ALL = "slow and not long", "not long"


def main() -> int:
    """Run both, the slow ones in sight, and show what the others said when they are done; return the exit status."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    # A terminal's reaches all three: the runs stop their processes, we wait. Ignored it would be in the runs too, which
    # are stopped by it; so it is where a shell starts us in the background, and with a handler it is not.
    signal.signal(signal.SIGINT, lambda *_: None)
    with tempfile.TemporaryDirectory() as claims, tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        command = [sys.executable, "-m", "pytest", "-p", "tests.sharing", f"--claims={claims}", *sys.argv[1:], "-m"]
        others = subprocess.Popen([*command, ALL, "--helps"], stdout=said, stderr=subprocess.STDOUT)
        slow = subprocess.Popen([*command, SLOW])
        runs = [others, slow]
        while runs:
            time.sleep(0.1)
            while told:
                told.pop()
                for run in runs:
                    run.send_signal(signal.SIGINT)
            runs = [run for run in runs if run.poll() is None]
            if others not in runs and not said.closed:
                said.seek(0)
                print(f"\n\n{said.read()}", flush=True)
                said.close()
    statuses = [status for run in (slow, others) if (status := run.returncode) != pytest.ExitCode.NO_TESTS_COLLECTED]
    return max(map(abs, statuses), default=int(pytest.ExitCode.NO_TESTS_COLLECTED))


if __name__ == "__main__":
    sys.exit(main())
