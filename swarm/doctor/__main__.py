"""`python -m swarm.doctor MODEL --conformance`: a line for each check; exit status 1 if one fails."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from swarm.cli import parse_flags, run_plain
from swarm.doctor.config import DoctorConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run the doctor; return the exit status: 0 all is well, 1 something is not."""
    config = parse_flags(DoctorConfig, argv, prog="python -m swarm.doctor")
    findings: list[bool] = []
    status = run_plain(lambda config: findings.append(_examine(config)), config)
    return status or int(not all(findings))


def _examine(config: DoctorConfig) -> bool:
    # Loads torch, which `--help` does without.
    from swarm.blocks import open_checkpoint
    from swarm.blocks.conformance import check

    checkpoint = open_checkpoint(config.model)
    kind = checkpoint.family.name if checkpoint.family.assemble is not None else "transformers' own layers"
    print(
        f"comparing {checkpoint.name} ({kind}, {checkpoint.config.num_blocks} blocks) with transformers in float32: "
        "for each check, the largest difference found and the limit",
        flush=True,
    )
    report = check(checkpoint, prompt_tokens=config.prompt_tokens, new_tokens=config.new_tokens)
    for finding in report.checks:
        print(finding)
    passed = sum(finding.is_passed for finding in report.checks)
    print(f"{report.model} ({kind}): {passed} of {len(report.checks)} checks passed", flush=True)
    return report.is_passed


if __name__ == "__main__":
    sys.exit(main())
