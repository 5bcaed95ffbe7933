"""`python -m tests`: what `make test` runs. Slow tests mostly wait for processes; the others run beside them."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time

import pytest

SLOW, OTHERS = "slow and not long", "not slow and not long"


def main() -> int:
    """Run both, the slow ones in sight, and show what the others said when they are done; return the exit status."""
    command = [sys.executable, "-m", "pytest", *sys.argv[1:], "-m"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        others = subprocess.Popen([*command, OTHERS], stdout=said, stderr=subprocess.STDOUT)
        slow = subprocess.Popen([*command, SLOW])
        runs = [others, slow]

        def stop(*_: object) -> None:
            for run in runs:
                run.send_signal(signal.SIGINT)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's reaches both; they stop their processes, we wait
        while runs:
            time.sleep(0.1)
            runs = [run for run in runs if run.poll() is None]
            if others not in runs and not said.closed:
                said.seek(0)
                print(f"\n\n{said.read()}", flush=True)
                said.close()
    statuses = [status for run in (slow, others) if (status := run.returncode) != pytest.ExitCode.NO_TESTS_COLLECTED]
    return max(map(abs, statuses), default=int(pytest.ExitCode.NO_TESTS_COLLECTED))


if __name__ == "__main__":
    sys.exit(main())
