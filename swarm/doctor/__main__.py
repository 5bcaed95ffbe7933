"""`python -m swarm.doctor`: a line for each check; exit status 1 if a fault was found."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from swarm.cli import parse_flags, run, run_plain
from swarm.doctor.config import DoctorConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the doctor; return the exit status: 0 all is well, 1 something is not."""
    config = parse_flags(DoctorConfig, argv, prog="python -m swarm.doctor")
    passed: list[bool] = []
    if config.conformance:
        # Loads torch, which `--help` does without.
        from swarm.doctor.conformance import compare

        status = run_plain(lambda config: passed.append(compare(config)), config)
        return status or int(not all(passed))

    async def look(config: DoctorConfig) -> None:
        from swarm.doctor.examination import examine
        from swarm.doctor.report import tell

        began = time.monotonic()
        findings = await examine(config)
        passed.append(tell(findings, seconds=time.monotonic() - began, is_json=config.json))

    status = run(look, config)
    return status or int(not all(passed))


if __name__ == "__main__":
    sys.exit(main())
