"""What is wrong here? This machine, the way into the swarm, its servers and its models, told in a line each.

Probes look (`probes/`), verdicts judge what was seen without any I/O (`verdicts/`), `examination` has them run at once.
Nothing is disturbed: the doctor announces nothing, stores nothing for others, and dials few.
"""

from swarm.doctor.config import DoctorConfig
from swarm.doctor.findings import Code, Finding, Level

__all__ = ["Code", "DoctorConfig", "Finding", "Level"]
