"""What a person, or a program, gets to read."""

from __future__ import annotations

import json
from collections.abc import Sequence

from swarm.doctor.findings import Finding, Level


def tell(findings: Sequence[Finding], *, seconds: float, is_json: bool) -> bool:
    """Print the findings, which took `seconds`, to stdout; whether none is a fault."""
    faults, warnings = (sum(each.level is level for each in findings) for level in (Level.FAULT, Level.WARNING))
    if is_json:
        table = {
            "healthy": not faults,
            "faults": faults,
            "warnings": warnings,
            "seconds": round(seconds, 2),
            "findings": [each.as_json() for each in findings],
        }
        print(json.dumps(table), flush=True)
        return not faults
    for finding in findings:
        print(finding.line())
    print(summary(faults, warnings), flush=True)
    return not faults


def summary(faults: int, warnings: int) -> str:
    """Return the last line: how many faults and warnings there are."""
    counts = [_counted(faults, "fault"), _counted(warnings, "warning")]
    found = " and ".join(each for each in counts if each)
    if not faults:
        return f"healthy, with {found}" if found else "healthy"
    return f"{found}; docs/troubleshooting.md tells more of each code"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number > 1 else ''}" if number else ""
