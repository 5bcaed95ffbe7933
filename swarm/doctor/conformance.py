"""`python -m swarm.doctor MODEL --conformance`: a model on this machine, compared with transformers."""

from __future__ import annotations

from swarm.blocks import open_checkpoint
from swarm.blocks.conformance import check
from swarm.blocks.files.bundled import DEFAULT_MODEL
from swarm.doctor.config import DoctorConfig


def compare(config: DoctorConfig) -> bool:
    """Print a line for each comparison; whether all are passed.

    Raises:
        ModelNotFound, UnsupportedModel, CheckpointCorrupt: The model cannot be opened.
    """
    checkpoint = open_checkpoint(config.model or DEFAULT_MODEL)
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
