"""A command on a machine whose clock is wrong: `python -m tests.doctor.shifted SECONDS MODULE ARGS...`."""

from __future__ import annotations

import runpy
import sys
import time

if __name__ == "__main__":
    seconds, module, right = float(sys.argv[1]), sys.argv[2], time.time
    time.time = lambda: right() + seconds
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__")
