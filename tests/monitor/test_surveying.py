"""What views become: standings, coverage, bottleneck, alerts; the same servers count as for a router."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from swarm.monitor import Level, ModelState, Standing, survey
from swarm.monitor.alerts import in_words
from swarm.monitor.shapes import swarm_shape
from swarm.monitor.watcher import REMEMBERED, Memory
from swarm.planning import agree, coverage, missing_spans
from swarm.types import Reach, ServerRecord, ServerState, Span
from tests.monitor.swarms import crowd, household, server, view

NOW = time.time()


def model_of(*records: ServerRecord) -> ModelState:
    return survey([view(records)], now=NOW).models[0]


def alerts(model: ModelState) -> list[str]:
    return [alert.text for alert in model.alerts]


def small(name: str, start: int, end: int, **changes: object) -> ServerRecord:
    return server(name, start, end, num_blocks=30, **changes)  # type: ignore[arg-type]


def test_blocks_with_one_server_and_blocks_with_none_are_told_in_words() -> None:
    model = model_of(small("a", 0, 16), small("b", 0, 12), small("c", 16, 20), small("d", 12, 12 + 4, free_pages=0))
    assert alerts(model)[0] == "blocks 20-29 have no server"
    assert "blocks 16-19 have one server" in alerts(model)
    assert model.alerts[0].level is Level.BAD and model.alerts[0].spans == (Span(20, 30),)
    assert not model.is_whole and model.missing == (Span(20, 30),) and model.per_s == 0.0


def test_a_gap_that_somebody_is_loading_says_so() -> None:
    model = model_of(small("a", 0, 20), small("b", 18, 30, state=ServerState.JOINING))
    assert alerts(model)[0] == "blocks 20-29 have no server; 1 server is loading some of them"


def test_only_servers_that_take_sessions_cover_blocks() -> None:
    model = model_of(
        small("serves", 0, 30),
        small("leaves", 0, 30, state=ServerState.DRAINING),
        small("loads", 0, 30, state=ServerState.JOINING),
        small("lost", 0, 30, reach=Reach.UNREACHABLE),
        small("forked", 0, 30, checkpoint="b"),
        small("serves too", 0, 10),
    )
    assert {each.record.public_name: each.standing for each in model.servers} == {
        "serves": Standing.SERVING,
        "serves too": Standing.SERVING,
        "leaves": Standing.LEAVING,
        "loads": Standing.JOINING,
        "lost": Standing.UNREACHABLE,
        "forked": Standing.OTHER,
    }
    assert [(stretch.span, stretch.servers) for stretch in model.stretches] == [(Span(0, 10), 2), (Span(10, 30), 1)]
    assert "1 server holds another checkpoint, left out of routes: forked" in alerts(model)
    assert "1 server cannot be reached by others, left out of routes: lost" in alerts(model)


def test_a_server_that_counts_other_blocks_is_left_out() -> None:
    model = model_of(small("a", 0, 30), small("b", 0, 30), server("liar", 0, 40, num_blocks=40))
    assert model.num_blocks == 30
    assert [each.record.public_name for each in model.servers if each.standing is Standing.OTHER] == ["liar"]


def test_the_bottleneck_is_where_the_model_is_slowest() -> None:
    model = model_of(small("a", 0, 10, per_s=1000.0), small("b", 10, 20, per_s=100.0), small("c", 20, 30, per_s=900.0))
    assert model.bottleneck == (Span(10, 20),) and model.per_s == 10.0
    assert "blocks 10-19 have less than half of the usual throughput (10 of 90 tokens/s)" in alerts(model)
    assert model_of(small("a", 0, 30), small("b", 0, 30)).bottleneck == ()


def test_a_server_without_free_pages_makes_its_blocks_full() -> None:
    model = model_of(small("a", 0, 30, free_pages=0), small("b", 0, 10))
    assert "blocks 10-29 have no free pages: new sessions wait" in alerts(model)


def test_a_swarm_that_is_well_has_no_alerts() -> None:
    assert alerts(model_of(small("a", 0, 30), small("b", 0, 30))) == []


def test_records_that_expired_are_not_there() -> None:
    state = survey([view([small("a", 0, 30, expires_at=NOW - 1), small("b", 0, 10, expires_at=NOW + 9)])], now=NOW)
    assert [each.record.public_name for each in state.models[0].servers] == ["b"]
    assert survey([view([small("a", 0, 30, expires_at=NOW - 1)])], now=NOW).models == ()


def test_a_model_that_lost_its_last_server_is_missed_for_a_while() -> None:
    memory, whole = Memory(), survey([view([small("a", 0, 30)])], now=NOW)
    assert memory.complete(whole, now=NOW) == whole
    empty = survey([], now=NOW + 10)
    after = memory.complete(empty, now=NOW + 10)
    assert alerts(after.models[0]) == ["none of the 30 blocks has a server"] and not after.is_whole
    assert memory.complete(empty, now=NOW + 10 + REMEMBERED).models == ()
    broken = survey([view([small("a", 0, 20)])], now=NOW)
    assert Memory().complete(broken, now=NOW) == broken


def test_what_strangers_call_themselves_is_not_remembered_without_end() -> None:
    memory = Memory()
    for number in range(100):
        memory.complete(survey([view([server("a", 0, 1, model=f"m{number}", num_blocks=1)])], now=NOW), now=NOW)
    assert len(memory.complete(survey([], now=NOW), now=NOW).models) == 16


def test_long_lists_are_cut() -> None:
    spans = [Span(2 * index, 2 * index + 1) for index in range(9)]
    assert in_words(spans) == "blocks 0, 2, 4, 6, 8, 10 and 3 more stretches"
    assert in_words([Span(7, 8)]) == "block 7"
    assert in_words([Span(0, 4), Span(12, 16)]) == "blocks 0-3 and 12-15"


@given(st.lists(st.tuples(st.integers(0, 28), st.integers(1, 10), st.integers(0, 7)), min_size=1, max_size=12))
def test_coverage_is_the_routers_whatever_the_servers(drawn: list[tuple[int, int, int]]) -> None:
    kinds = [{}, {"state": ServerState.JOINING}, {"reach": Reach.UNREACHABLE}, {"checkpoint": "b"}]
    records = [
        small(f"s{index}", start, min(30, start + length), **kinds[kind % 4 if kind < 4 else 0])
        for index, (start, length, kind) in enumerate(drawn)
    ]
    model, agreed = model_of(*records), agree(view(records)).view
    rates = [stretch.per_s for stretch in model.stretches for _ in range(len(stretch.span))]
    assert rates == list(coverage(agreed, 30))
    assert sum(map(len, model.missing)) == sum(map(len, missing_spans(agreed, Span(0, 30))))
    assert [stretch.span.end for stretch in model.stretches[:-1]] == [s.span.start for s in model.stretches[1:]]
    assert len(model.servers) == len(records)


def test_the_shape_names_every_server_and_bounds_what_strangers_say() -> None:
    shape = swarm_shape(survey(household(), now=NOW))
    assert shape["totals"]["servers"] == len(shape["servers"]) == 13
    assert {model["name"]: model["is_whole"] for model in shape["models"]} == {
        "llama-3.1-70b": True,
        "smollm2-135m": False,
    }
    assert shape["models"][1]["missing"] == [[20, 24]]
    long = server("a", 0, 80, addrs=("/dns4/" + "x" * 1000,) * 16)
    told = swarm_shape(survey([view([long])], now=NOW))["servers"][0]
    assert len(told["addrs"]) == 4 and all(len(addr) == 160 for addr in told["addrs"])


def test_a_thousand_servers_are_surveyed_in_a_moment() -> None:
    views = [view(crowd(1000))]
    began = time.perf_counter()
    state = survey(views, now=NOW)
    assert time.perf_counter() - began < 1.0 and len(state.models[0].servers) == 1000
