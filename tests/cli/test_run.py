"""How a command ends, seen from outside: exit status, stderr, and real signals."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from swarm.cli import run, run_plain
from swarm.errors import Busy, SwarmUnreachable


@dataclass(frozen=True)
class Config:
    debug: bool = False


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    ours = logging.getLogger("swarm")
    before = ours.handlers, ours.propagate, ours.level
    yield
    ours.handlers, ours.propagate = before[0], before[1]
    ours.setLevel(before[2])


def test_a_main_that_returns_ends_with_0() -> None:
    seen = []

    async def main(config: Config) -> None:
        seen.append((config, type(asyncio.get_running_loop()).__module__))

    assert run(main, Config()) == 0
    assert seen == [(Config(), "uvloop")]


def test_an_error_of_ours_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    async def main(config: Config) -> None:
        raise SwarmUnreachable("none of 2 peers answers\nwithin 5 s")

    assert run(main, Config()) == 1
    assert capsys.readouterr().err == "error: none of 2 peers answers within 5 s\n"


def test_an_error_out_of_nested_task_groups_is_told_as_if_it_were_alone(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail() -> None:
        raise Busy("no page free; try again in 1 s")

    async def inner() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    async def main(config: Config) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(inner())

    assert run(main, Config()) == 1
    assert capsys.readouterr().err == "error: no page free; try again in 1 s\n"


def test_a_fault_of_ours_is_one_line_and_status_70(capsys: pytest.CaptureFixture[str]) -> None:
    async def main(config: Config) -> None:
        raise KeyError("hop")

    assert run(main, Config()) == 70
    assert capsys.readouterr().err == "error: unexpected KeyError: 'hop'; run again with --debug\n"


def test_a_fault_beside_an_error_is_the_one_that_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def main(config: Config) -> None:
        raise ExceptionGroup("both", [Busy("full"), ZeroDivisionError()])

    assert run_plain(main, Config()) == 70
    assert capsys.readouterr().err == "error: unexpected ZeroDivisionError; run again with --debug\n"


def test_debug_shows_the_traceback_and_then_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    async def main(config: Config) -> None:
        raise SwarmUnreachable("nobody answers")

    assert run(main, Config(debug=True)) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and "in main" in shown and shown.endswith("error: nobody answers\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cancels_main_which_cleans_up_and_ends_with_0(number: signal.Signals) -> None:
    steps = []

    async def main(config: Config) -> None:
        try:
            signal.raise_signal(number)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            steps.append("drained")

    before = signal.getsignal(number)
    assert run(main, Config()) == 0
    assert steps == ["drained"]
    assert signal.getsignal(number) == before


def test_an_error_while_stopping_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    async def main(config: Config) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(60)
        finally:
            raise SwarmUnreachable("the goodbye reached nobody")

    assert run(main, Config()) == 1
    assert capsys.readouterr().err.endswith("error: the goodbye reached nobody\n")


def test_a_cancellation_that_no_signal_asked_for_is_not_taken_for_a_clean_end() -> None:
    async def main(config: Config) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(main, Config())


STUBBORN = """
import asyncio, sys, time
from types import SimpleNamespace
from swarm.cli import run

async def main(config):
    print("ready", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("stopping", flush=True)
        await asyncio.sleep(60)

sys.exit(run(main, SimpleNamespace(debug=False)))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_a_hanging_cleanup_at_once(number: signal.Signals, status: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for told in ("ready", "stopping"):
            assert process.stdout.readline().strip() == told
            process.send_signal(number)
        assert process.wait(timeout=10) == status
        assert "stopping; once more ends at once" in process.stderr.read()


def test_ctrl_c_in_a_plain_main_ends_with_130() -> None:
    def main(config: Config) -> None:
        signal.raise_signal(signal.SIGINT)

    assert run_plain(main, Config()) == 130
