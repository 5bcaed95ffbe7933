"""docs/troubleshooting.md tells of each code of the doctor, and of each error that a user can meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm import errors
from swarm.doctor import Code

TEXT = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ")]
LEAVES = [kind for kind in vars(errors).values() if isinstance(kind, type) and getattr(kind, "code", 0)]


@pytest.mark.parametrize("code", Code)
def test_each_code_of_the_doctor_has_a_row(code: Code) -> None:
    assert [row for row in ROWS if row.startswith(f"| {code.number} {code.title} |")]


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.__name__)
def test_each_error_has_a_row(error: type[errors.SwarmError]) -> None:
    (row,) = [row for row in ROWS if row.startswith(f"| {error.__name__} |")]
    assert all(cell.strip() for cell in row.strip("|").split("|"))


def test_nothing_is_told_of_errors_or_codes_that_do_not_exist() -> None:
    known = {error.__name__ for error in LEAVES} | {f"{code.number} {code.title}" for code in Code} | {"code", "error"}
    assert {row.split("|")[1].strip() for row in ROWS} <= known
