"""What a look at the swarm prints."""

from __future__ import annotations

import time

import pytest

from swarm.errors import SwarmUnreachable, UsageError
from swarm.membership import Joined
from swarm.monitor import SwarmState, survey
from swarm.status import StatusConfig, as_text
from swarm.status.looking import look
from swarm.status.table import coverage_map
from tests.monitor.swarms import crowd, household, server, view

NOW = time.time()
DEAD = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWEZXjE41uU4EL2gpkAQeDXYok6wghN7wwNVPF5bwkaNfS"


def test_models_alerts_and_servers_are_lines() -> None:
    text = as_text(survey(household(), now=NOW))
    assert "llama-3.1-70b  80 blocks  10 servers  whole  106 tokens/s" in text
    assert "smollm2-135m  30 blocks  3 servers  INCOMPLETE, 26 of 30 blocks" in text
    assert "!! blocks 20-23 have no server" in text and " ! blocks 62-79 have one server" in text
    assert "0 [111122222222111111110000111111] 29".replace("0000", "....") in text
    line = next(line for line in text.splitlines() if "behind-a-wall (" in line)
    assert "48:64" in line and "unreachable" in line
    nothing = SwarmState(taken_at=NOW)
    assert as_text(nothing) == "no model is served in this swarm" and not nothing.is_whole


def test_columns_stay_in_line_whatever_the_script_of_a_name() -> None:
    records = [server("\u6570\u636e", 0, 30, num_blocks=30), server("plain", 0, 30, num_blocks=30)]
    rows = as_text(survey([view(records)], now=NOW)).splitlines()[-2:]
    wide, plain = sorted(rows, key=lambda row: "plain" in row)
    assert wide.index("0:30") + 2 == plain.index("0:30")  # two signs that are two columns wide


def test_a_large_model_fits_a_terminal_and_shows_its_worst() -> None:
    model = survey([view(crowd(200, num_blocks=400))], now=NOW).models[0]
    shown = coverage_map(model)
    assert len(shown) < 110 and shown.count(".") >= 1


async def test_nobody_there_is_told_with_the_reason() -> None:
    with pytest.raises(SwarmUnreachable, match=r"no initial peer answers within 0.5 s: .*/tcp/9/.*refused"):
        await look(Joined((DEAD,), None), model=None, timeout=0.5)


def test_no_time_to_look_is_refused() -> None:
    with pytest.raises(UsageError, match="--timeout 0"):
        StatusConfig(timeout=0)
