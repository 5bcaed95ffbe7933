"""`python -m swarm.simulator`: from flags to a table, JSON and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swarm.simulator.__main__ import main
from swarm.simulator.config import SimulatorConfig
from swarm.simulator.report import make_report
from swarm.simulator.scenarios import simulate

SMALL = ["--servers", "40", "--blocks", "20", "--hours", "0.3", "--routes", "4", "--seed", "3", "--lifetime", "1"]


@pytest.mark.parametrize("scenario", ["departure", "region"])
def test_the_command_writes_what_came_of_it(scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert main([*SMALL, "--scenario", scenario, "--json", str(out), "--plots", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "covered" in text and "moves" in text and "route time" in text
    document = json.loads(out.read_text())
    assert document["config"]["scenario"] == scenario and document["report"]["moves_uncovering"] == 0
    assert len(document["series"]["seconds"]) == len(document["series"]["bottleneck"]) > 100
    assert len(document["routes"]) == document["report"]["routes"]
    pictures = sorted(tmp_path.glob("*.png"))
    assert [path.name for path in pictures] == [f"{scenario}-40-routes.png", f"{scenario}-40.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


@pytest.mark.parametrize("flags", [["--servers", "0"], ["--hours", "0"], ["--span", "2"], ["--ttl", "1000"]])
def test_numbers_out_of_range_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(flags)
    assert flags[0] in capsys.readouterr().err


@pytest.mark.long
def test_a_thousand_servers_with_churn_meet_the_aims() -> None:
    report = make_report(*simulate(SimulatorConfig(servers=1000, hours=2.0, routes=20)))
    assert report.covered == 1.0 and report.moves_uncovering == 0
    assert report.bottleneck_mean >= 0.8 and report.bottleneck_p5 >= 0.8
    assert report.moves_per_server_hour <= 1.0
    assert report.latency_median <= 1.5


@pytest.mark.long
@pytest.mark.parametrize("scenario", ["departure", "crowd", "region"])
def test_a_thousand_servers_stay_covered_whatever_happens(scenario: str) -> None:
    report = make_report(
        *simulate(SimulatorConfig(servers=1000, hours=1.0, routes=10, scenario=scenario))  # type: ignore[arg-type]
    )
    assert report.covered == 1.0 and report.moves_uncovering == 0 and report.bottleneck_p5 >= 0.75
