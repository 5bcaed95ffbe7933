"""A server that is told to leave hands over what it does; nobody notices."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.chaos.texts import Steps, prompts_of, streams, within
from tests.chaos.yard import Yard

pytestmark = pytest.mark.slow

NUM_SESSIONS = 8
EXIT_SECONDS = 30.0


def test_a_server_told_to_stop_with_eight_live_sessions_leaves_in_time_and_no_request_fails(swarm: Yard) -> None:
    swarm.settle()
    model = swarm.client(reuse_prefixes=False)
    prompts = prompts_of(7, model.config.vocab_size, NUM_SESSIONS)
    expected = streams(model, prompts, Steps())
    left: list[tuple[str, float]] = []

    def leave() -> None:
        name = swarm.name(model, random.Random(1))
        swarm.drain(name)
        left.append((name, time.monotonic()))

    steps = Steps({4 * NUM_SESSIONS: leave})
    made, seconds = within(90.0, lambda: streams(model, prompts, steps))
    assert made == expected
    [(name, told_at)] = left
    server = swarm.fleet.servers[name].popen
    assert server.wait(max(0.1, told_at + EXIT_SECONDS - time.monotonic())) == 0
    gone = time.monotonic() - told_at
    print(f"{name} left after {gone:.1f} s; the texts took {seconds:.1f} s, longest pause {steps.pause():.2f} s")
    assert steps.times[-1] > told_at, "the texts were over before"
    assert server.returncode == 0 and server.returncode != -signal.SIGKILL
