from __future__ import annotations

from swarm.chat.progress import Progress, status_text, summary_text
from swarm.client.explain import Explanation, explain
from swarm.types import Hop, PeerId

ADA, BEN, CLEO = PeerId("12D3KooWAda"), PeerId("12D3KooWBen"), PeerId("12D3KooWCleo")
NAMES = {ADA: "ada", BEN: "", CLEO: "cleo"}


def seen(*hops: Hop, failovers: int = 0) -> Explanation:
    return explain(hops, (), num_failovers=failovers)


def test_the_status_tells_pace_and_route() -> None:
    progress = Progress(100.0)
    assert status_text(progress, NAMES, 100.5) == "thinking 0.5 s"
    for number in range(11):
        progress.token(101.0 + number / 10)
    progress.saw(seen(Hop(ADA, 0, 10), Hop(BEN, 10, 30)), NAMES, 102.0)
    assert status_text(progress, NAMES, 102.0) == "10.0 tokens/s · 0:10 ada → 10:30 …ooWBen"


def test_the_pace_is_of_late() -> None:
    progress = Progress(0.0)
    for number in range(100):
        progress.token(1.0 + number / 100)
    for number in range(31):
        progress.token(5.0 + number / 10)
    assert round(progress.per_s(8.0)) == 10 and progress.mean_per_s() > 15


def test_a_stall_says_so() -> None:
    progress = Progress(0.0)
    progress.token(1.0)
    assert "no token for 2.5 s" in status_text(progress, NAMES, 3.5)


def test_a_failover_is_news_for_a_while_and_counted_from_then_on() -> None:
    progress = Progress(0.0)
    progress.saw(seen(Hop(ADA, 0, 10), Hop(BEN, 10, 30)), NAMES, 1.0)
    progress.token(1.0)
    progress.saw(seen(Hop(ADA, 0, 10), Hop(CLEO, 10, 30), failovers=1), NAMES, 2.0)
    progress.token(2.0)
    assert "fail-over: cleo took over 10:30" in status_text(progress, NAMES, 2.5)
    progress.token(20.0)
    assert "· 1 fail-over ·" in status_text(progress, NAMES, 20.0)
    assert summary_text(progress, NAMES, "stopped").startswith("stopped · 3 tokens · ")
    assert "1 fail-over" in summary_text(progress, NAMES, "")
