"""Config dataclasses as command lines, checked against what a person types and sees."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from swarm.cli import parse_flags
from swarm.errors import UsageError
from swarm.flag import flag, parse_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Serve blocks at 100 % speed.

    A second paragraph that the help leaves out.
    """

    model: str | None = field(default=None, metadata=flag("what to serve", positional=True))
    initial_peers: tuple[str, ...] = field(default=(), metadata=flag("whom to ask", metavar="ADDR"))
    ports: tuple[int, ...] = field(default=(1, 2), metadata=flag("ports"))
    port: int = field(default=31337, metadata=flag("port; 0 is any free one"))
    margin: float | None = field(default=None, metadata=flag("share of memory left free, 10% is 0.1"))
    dtype: Literal["auto", "float32"] = field(default="auto", metadata=flag("numerics"))
    memory: int | None = field(default=None, metadata=flag("limit", metavar="SIZE", parse=parse_bytes))
    relay: bool = field(default=True, metadata=flag("do not relay"))
    debug: bool = field(default=False, metadata=flag("log more"))
    version: int = 7

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise UsageError(f"port {self.port} is outside 0..65535; give a smaller one")


def test_no_flag_at_all_gives_the_defaults_of_the_dataclass() -> None:
    assert parse_flags(Config, []) == Config()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("llama", {"model": "llama"}),
        ("--initial-peers A B C", {"initial_peers": ("A", "B", "C")}),
        ("--initial-peers A --initial-peers B", {"initial_peers": ("A", "B")}),
        ("llama --initial-peers A --debug", {"model": "llama", "initial_peers": ("A",), "debug": True}),
        ("--initial-peers", {"initial_peers": ()}),
        ("--ports 5 6", {"ports": (5, 6)}),
        ("--port 0", {"port": 0}),
        ("--port=8", {"port": 8}),
        ("--margin 0.5", {"margin": 0.5}),
        ("--dtype float32", {"dtype": "float32"}),
        ("--memory 8GB", {"memory": 8_000_000_000}),
        ("--no-relay", {"relay": False}),
    ],
)
def test_flags_become_fields(line: str, expected: dict[str, Any]) -> None:
    assert parse_flags(Config, line.split()) == Config(**expected)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--colour red", "unrecognized arguments: --colour"),
        ("--init A", "unrecognized arguments: --init"),
        ("--version 8", "unrecognized arguments: --version"),
        ("--port many", "argument --port: invalid int value: 'many'"),
        ("--port 70000", "port 70000 is outside 0..65535; give a smaller one"),
        ("--dtype int3", "argument --dtype: invalid choice: 'int3'"),
        ("--memory 8XB", "argument --memory: size '8XB' is not a number of bytes"),
        ("one two", "unrecognized arguments: two"),
    ],
)
def test_a_bad_flag_ends_with_usage_and_status_2(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_flags(Config, line.split(), prog="swarm server")
    shown = capsys.readouterr().err
    assert end.value.code == 2
    assert shown.startswith("usage: swarm server") and told in shown and "Traceback" not in shown


def test_help_shows_texts_defaults_and_the_first_line_of_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_flags(Config, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert "Serve blocks at 100 % speed." in shown and "second paragraph" not in shown
    assert "port; 0 is any free one (default: 31337)" in shown
    assert "10% is 0.1" in shown and "--memory SIZE" in shown and "{auto,float32}" in shown
    assert "--version" not in shown


def test_a_field_without_default_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Needy:
        path: str = field(metadata=flag("where", positional=True))
        key: str = field(metadata=flag("which"))

    assert parse_flags(Needy, ["here", "--key", "k"]) == Needy("here", "k")
    for line in (["here"], ["--key", "k"]):
        with pytest.raises(SystemExit):
            parse_flags(Needy, line)
        assert "the following arguments are required" in capsys.readouterr().err


def test_a_positional_may_take_many_values_or_none() -> None:
    @dataclass(frozen=True)
    class Models:
        models: tuple[str, ...] = field(default=("all",), metadata=flag("which", positional=True))

    assert parse_flags(Models, ["a", "b"]).models == ("a", "b")
    assert parse_flags(Models, []).models == ("all",)


def test_an_optional_number_that_stands_first_may_be_left_out() -> None:
    @dataclass(frozen=True)
    class Count:
        count: int = field(default=3, metadata=flag("how many", positional=True))

    assert parse_flags(Count, []).count == 3
    assert parse_flags(Count, ["5"]).count == 5


def test_a_type_that_cannot_be_a_flag_is_a_fault_of_the_program() -> None:
    @dataclass(frozen=True)
    class Odd:
        odd: dict[str, str] = field(default_factory=dict, metadata=flag("odd"))

    with pytest.raises(TypeError, match=r"'odd'.*parse"):
        parse_flags(Odd, [])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("8GB", 8 * 10**9),
        ("512MiB", 512 * 2**20),
        ("1.5g", 1_500_000_000),
        ("2 KiB", 2048),
        ("1T", 10**12),
        ("7b", 7),
        ("0", 0),
    ],
)
def test_sizes_count_by_1000_or_with_an_i_by_1024(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1e9", "8 XB", "5iB", "1,5GB", "nan", "9" * 400 + "."])
def test_what_is_no_size_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(UsageError, match="write it like"):
        parse_bytes(text)
