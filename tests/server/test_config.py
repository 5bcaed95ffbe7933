"""Flags of a server: what is read, what is refused."""

from __future__ import annotations

import pytest

from swarm.errors import UsageError
from swarm.server import ServerConfig
from swarm.server.config import parse_blocks
from swarm.types import Span


@pytest.mark.parametrize(("text", "blocks"), [("auto", "auto"), ("12", 12), ("0:10", Span(0, 10))])
def test_blocks_are_auto_a_number_or_a_range(text: str, blocks: object) -> None:
    assert parse_blocks(text) == blocks


@pytest.mark.parametrize("text", ["", "0", "-3", "many", "10:0", "5:5", "-1:4", "1:2:3", "3:", ":3", "1.5"])
def test_other_words_for_blocks_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"--blocks .* such as 0:10"):
        parse_blocks(text)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"threads": -1}, "--threads"),
        ({"max_sessions": 0}, "--max-sessions"),
        ({"port": 65536}, "--port"),
        ({"ttl": 1.0}, "--ttl"),
        ({"ttl": float("nan")}, "--ttl"),
        ({"drain_timeout": float("nan")}, "--drain-timeout"),
        ({"throughput": "fast"}, "--throughput"),
        ({"throughput": "nan"}, "--throughput"),
        ({"throughput": "-1"}, "--throughput"),
        ({"public_name": "a\nb"}, "--public-name"),
        ({"public_name": "x" * 65}, "--public-name"),
    ],
)
def test_values_out_of_range_are_refused_by_the_name_of_the_flag(changes: dict[str, object], flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        ServerConfig(**changes)  # type: ignore[arg-type]
