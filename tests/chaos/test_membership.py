"""Who has died is not in the directory for long, is on no route at all, and comes back as one."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from swarm.client import SwarmForCausalLM, Timeouts
from swarm.errors import BlocksMissing
from tests.chaos.texts import Steps, generate, prompts_of, session, stream, within
from tests.chaos.yard import PATIENT, TTL, Yard

pytestmark = pytest.mark.slow

ERROR_SECONDS = 10.0
"""Within these a client knows that blocks are missing, by the timeouts that everybody has who sets none."""


def eyes(swarm: Yard, **options: Any) -> dict[str, SwarmForCausalLM]:
    """Clients that look at the swarm through different members of it."""
    doors = {"bootstrap": swarm.fleet.addr}
    doors |= {name: swarm.addr_of(name) for name in ("left", "low")}
    return {name: swarm.client(initial_peers=[addr], **options) for name, addr in doors.items()}


def seen(swarm: Yard, by: dict[str, SwarmForCausalLM], name: str) -> dict[str, int]:
    """How many records of a server each of them sees."""
    return {
        who: sum(swarm.fleet.name(record.peer) == name for record in swarm.view(model).records)
        for who, model in by.items()
    }


def wait_until(what: Callable[[], bool], timeout: float) -> float:
    """Wait until something is so; return the seconds that it took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < timeout, f"not within {timeout:.0f} s"
        time.sleep(0.1)
    return time.monotonic() - began


def test_without_the_only_holder_clients_are_told_which_blocks_and_whoever_waits_goes_on(
    swarm: Yard, small_folder: Any
) -> None:
    swarm.settle()
    small = {"model": str(small_folder), "reuse_prefixes": False}
    by = eyes(swarm, **small)
    usual = swarm.client(**small, timeouts=Timeouts())
    patient = swarm.client(**small, timeouts=PATIENT)
    prompts = prompts_of(1, usual.config.vocab_size)
    expected = {way: way(usual, prompts, Steps()) for way in (generate, stream, session)}
    killed_at: list[float] = []
    gate = threading.Barrier(len(expected) + 1)
    ended: dict[str, tuple[Any, float]] = {}

    def write(kind: str, model: SwarmForCausalLM, way: Any) -> None:
        steps = Steps({6: lambda: gate.wait(30.0)})  # all are under way when it dies
        try:
            made = way(model, prompts, steps)
        except Exception as fault:
            made = fault
        ended[f"{kind} {way.__name__}"] = made, time.monotonic()

    writers = [threading.Thread(target=write, args=("usual", usual, way)) for way in expected]
    writers.append(threading.Thread(target=write, args=("patient", patient, generate)))
    gate = threading.Barrier(len(writers) + 1, action=lambda: (swarm.kill("right"), killed_at.append(time.monotonic())))
    for writer in writers:
        writer.start()
    gate.wait(30.0)
    assert set(seen(swarm, by, "right").values()) <= {0, 1}
    dropped = wait_until(lambda: set(seen(swarm, by, "right").values()) == {0}, 2 * TTL)
    for writer in writers[:-1]:
        writer.join(2 * ERROR_SECONDS)
    for name in [name for name in ended if name.startswith("usual")]:
        fault, at = ended[name]
        print(f"{name}: {at - killed_at[0]:.1f} s: {fault}")
        assert isinstance(fault, BlocksMissing) and "3:6" in str(fault) and "\n" not in str(fault)
        assert at - killed_at[0] < ERROR_SECONDS
    assert len(ended) == len(expected), "the one who waits is still there"
    swarm.settle()
    back_at = time.monotonic()
    writers[-1].join(30.0)
    assert ended["patient generate"][0] == expected[generate]
    gone, again = dropped, ended["patient generate"][1] - back_at
    print(f"no record any more after {gone:.1f} s; the text was there {again:.1f} s after the server was back")


def test_a_session_goes_on_when_its_only_holder_wakes_up_within_the_wait(swarm: Yard, small_folder: Any) -> None:
    swarm.settle()
    model = swarm.client(model=str(small_folder), reuse_prefixes=False, timeouts=Timeouts())
    prompts = prompts_of(2, model.config.vocab_size)
    expected = stream(model, prompts, Steps())

    def sleep() -> None:
        swarm.freeze("right")
        threading.Timer(4.5, lambda: swarm.thaw("right")).start()

    steps = Steps({6: sleep})
    made, seconds = within(30.0, lambda: stream(model, prompts, steps))
    print(f"frozen for 4.5 s: {seconds:.1f} s, longest pause {steps.pause():.1f} s")
    assert made == expected


def test_nobody_is_sent_to_a_server_that_has_just_been_killed(swarm: Yard) -> None:
    swarm.settle()
    model = swarm.client(reuse_prefixes=False)
    expected = swarm.expected(model, "stream", 0)
    prompts = prompts_of(0, model.config.vocab_size)
    stream(model, prompts, Steps())
    name = swarm.name(model, random.Random(4))
    swarm.kill(name)
    for who, client in {"a client": model, "a newcomer": swarm.client(fresh=True, priority=1)}.items():
        steps = Steps()
        made, seconds = within(30.0, lambda client=client, steps=steps: stream(client, prompts, steps))
        assert made == expected[:1]
        assert name not in {swarm.fleet.name(hop.peer) for hop in client.route()}
        print(f"{who} without {name}: {seconds:.2f} s")


@pytest.mark.parametrize("cycles", [pytest.param(2, id="2"), pytest.param(20, id="20", marks=pytest.mark.long)])
def test_a_server_killed_and_started_again_and_again_is_one_record(swarm: Yard, small_folder: Any, cycles: int) -> None:
    swarm.settle()
    by = eyes(swarm, model=str(small_folder), reuse_prefixes=False)
    model = by["bootstrap"]
    prompts = prompts_of(1, model.config.vocab_size)
    expected = stream(model, prompts, Steps())
    for cycle in range(cycles):
        swarm.restart("right")
        swarm.settle()
        wait_until(lambda: set(seen(swarm, by, "right").values()) == {1}, 2 * TTL)
        made, seconds = within(30.0, lambda: stream(model, prompts, Steps()))
        assert made == expected
        print(f"cycle {cycle}: a text took {seconds:.2f} s")
    time.sleep(0.5)
    assert seen(swarm, by, "right") == dict.fromkeys(by, 1)
