"""The line in the log: what it says, and when it is silent."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from swarm.server.face.status_line import Standing, StatusLine, status_text
from swarm.server.tally import Tally
from swarm.types import EngineStats, Reach, ServerState, Span

SERVING = Standing(ServerState.ONLINE, Span(0, 10), Reach.DIRECT)


def test_a_busy_server_is_told_in_one_line() -> None:
    stats = EngineStats(sessions=12, pages=4096, pages_used=812, waiting=3)
    text = "serving 0:10 · 12 sessions · 340 tokens/s · 812 of 4,096 pages · 3 waiting"
    assert status_text(SERVING, stats, tokens_per_s=340.2) == text


@pytest.mark.parametrize(
    ("standing", "text"),
    [
        (Standing(ServerState.JOINING, Span(3, 9), Reach.UNKNOWN), "loading 3:9"),
        (Standing(ServerState.ONLINE, Span(3, 9), Reach.RELAYED), "serving 3:9 · through relays · 1 session · 0 of 8"),
        (Standing(ServerState.ONLINE, Span(3, 9), Reach.UNREACHABLE), "serving 3:9 · NOT REACHABLE by others · 1 sess"),
        (Standing(ServerState.DRAINING, Span(3, 9), Reach.DIRECT), "leaving 3:9 · 1 session · 0 of 8 pages"),
    ],
)
def test_what_goes_without_saying_is_left_out(standing: Standing, text: str) -> None:
    told = status_text(standing, EngineStats(sessions=1, pages=8), tokens_per_s=0.0)
    assert told.startswith(text) and "waiting" not in told and "tokens/s" not in told


class Played:
    """A server that does what the test says."""

    def __init__(self) -> None:
        self.state, self.reach, self.tally = ServerState.ONLINE, Reach.DIRECT, Tally()
        self.reception = SimpleNamespace(tally=self.tally, stats=lambda: EngineStats(sessions=1, pages=10))

    def record(self) -> SimpleNamespace:
        return SimpleNamespace(state=self.state, span=Span(0, 4), reach=self.reach)


def test_it_speaks_each_minute_of_work_at_each_change_and_not_when_idle(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "swarm")
    server = Played()
    server.state = ServerState.JOINING
    lines = StatusLine(server)  # type: ignore[arg-type]

    def pass_time(seconds: range, tokens_per_s: int) -> list[str]:
        caplog.clear()
        for now in seconds:
            server.tally.tokens += tokens_per_s
            lines.look(1000.0 + now)
        return caplog.messages

    assert pass_time(range(100), 0) == []
    server.state = ServerState.ONLINE  # told by the line that says how others come
    assert pass_time(range(100, 200), 0) == []
    worked = pass_time(range(200, 330), 5)
    assert len(worked) == 2 and all("1 session · 5.0 tokens/s" in line for line in worked)
    assert len(pass_time(range(330, 400), 0)) == 1  # the last ten seconds of work
    assert pass_time(range(400, 600), 0) == []
    server.reach = Reach.RELAYED
    assert len(pass_time(range(600, 700), 0)) == 1
    server.state = ServerState.DRAINING
    assert [line.split(" · ")[0] for line in pass_time(range(700, 800), 0)] == ["leaving 0:4"]
