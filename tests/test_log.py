"""What a line of the log looks like."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

CODE = """
from swarm.log import get_logger, set_up
set_up(debug={debug})
log = get_logger("swarm.server.x")
log.info("a sentence"); log.warning("a worry"); log.debug("a detail")
"""


@pytest.mark.parametrize(
    ("debug", "expected"),
    [
        (False, ["{} a sentence", "{} WARNING: a worry"]),
        (True, ["{} I swarm.server.x: a sentence", "{} W swarm.server.x: a worry", "{} D swarm.server.x: a detail"]),
    ],
)
def test_owners_read_sentences_and_whoever_debugs_sees_where_they_come_from(debug: bool, expected: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(debug=debug)], capture_output=True, text=True, timeout=60, check=True
    )
    assert re.sub(r"\d\d:\d\d:\d\d", "{}", done.stderr).splitlines() == expected
