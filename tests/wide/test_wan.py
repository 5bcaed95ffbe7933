"""The benchmark over a wide-area network: what it holds for unavoidable, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import wan
from benchmarks.wide import why_not

NEAR = {"blocks": 0.004, "client": 0.006, "gap": 0.011, "first_long": {"warm": 0.6}}


def test_unavoidable_are_the_trips_and_what_is_needed_without_a_network() -> None:
    run: dict[str, Any] = {"servers": 3, "round_trip": 0.08, "rate": 100.0, "near": NEAR, "tokens_per_s": 5.0}
    found = wan._unavoidable(run | {"first_long": {"warm": 1.14}})
    assert found["bound_tokens_per_s"] == pytest.approx(1 / 0.17) and found["decode_share"] == pytest.approx(0.85)
    assert found["bound_first_long"] == pytest.approx(0.76) and found["prompt_ratio"] == pytest.approx(1.5)


def test_where_the_line_is_slower_than_the_servers_it_counts() -> None:
    run: dict[str, Any] = {"servers": 3, "round_trip": 0.08, "rate": 1.0, "near": NEAR, "tokens_per_s": 5.0}
    assert wan._unavoidable(run | {"first_long": {"warm": 6.0}})["bound_first_long"] == pytest.approx(0.16 + 4.718592)


def test_the_default_plan_is_short_and_the_full_one_is_not() -> None:
    default, full = (wan._plan(wan._arguments(argv)) for argv in ([], ["--full"]))
    assert [(servers, len(trips)) for servers, trips in default] == [(3, 8), (6, 1)]
    assert [(servers, len(trips)) for servers, trips in full] == [(count, 8) for count in (3, 4, 5, 6)]


@pytest.mark.long
@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_it_runs_and_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "wan.json"
    wan.main(["--servers", "3", "--trips", "40", "--rounds", "1", "--new-tokens", "8", "--json", str(file)])
    found = json.loads(file.read_text(encoding="utf-8"))
    assert len(found["runs"]) == 2 and all(copy["is_identical"] for copy in found["copy"])
    # The bars belong to a quiet machine; that no token came sooner than light is true on any.
    assert all(0 < run["decode_share"] <= 1.1 for run in found["runs"])
    assert "first of 512" in capsys.readouterr().out
