"""Names of metrics: complete, and as Prometheus wants them."""

from __future__ import annotations

from dataclasses import fields

from swarm.server.face.metrics import PREFIX, STATS
from swarm.types import EngineStats


def test_every_field_of_the_engines_stats_is_shown() -> None:
    assert STATS.keys() == {field.name for field in fields(EngineStats)}


def test_names_follow_the_conventions() -> None:
    names = [shown.name for shown in STATS.values()]
    assert len(set(names)) == len(names)
    for shown in STATS.values():
        assert shown.name.endswith("_total") == (shown.kind == "counter")
        assert (PREFIX + shown.name).replace("_", "").isalnum() and shown.name.islower()
    assert all(STATS[field].name.endswith("_seconds") for field in STATS if field.startswith("queue_"))
    assert all("bytes" in STATS[field].name for field in STATS if "bytes" in field)
