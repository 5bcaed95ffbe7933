"""A server that answers with anything but the truth is found out, and costs the text nothing but time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from swarm.client import Timeouts
from tests.chaos.hostile import LIES
from tests.chaos.texts import Steps, generate, prompts_of, stream, within
from tests.chaos.yard import Yard

pytestmark = pytest.mark.slow

TIMEOUTS = Timeouts(step=4.0, coverage=30.0)
DEADLINE = 40.0


@pytest.fixture(params=["0:30", pytest.param("0:20", marks=pytest.mark.long)])
def liar(swarm: Yard, request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that seems faster than all others."""
    swarm.settle()
    swarm.expected(swarm.client(reuse_prefixes=False), "stream", 0)  # before there is one who lies
    name = f"liar {request.param}"
    swarm.fleet.launch({name: request.param}, "--throughput", "1000000", command="tests.chaos.hostile")
    swarm.fleet.wait_ready(name)
    yield name
    swarm.kill(name)


def test_lies_are_noticed_and_others_take_over(swarm: Yard, liar: str) -> None:
    model = swarm.client(reuse_prefixes=False, timeouts=TIMEOUTS, view_age=0.5)
    expected = swarm.expected(swarm.client(reuse_prefixes=False), "stream", 0)
    prompts = prompts_of(0, model.config.vocab_size)
    found: list[str] = []
    for index in count():  # until all lies were told: now and then a text has two sessions, or goes another way
        if set(found) == set(LIES):
            break
        assert index < 3 * len(LIES), found
        swarm.client(reuse_prefixes=False, timeouts=TIMEOUTS, view_age=0.5)  # without a grudge: it is tried again
        way, steps = (stream, generate)[index % 2], Steps()
        made, seconds = within(DEADLINE, lambda way=way, steps=steps: way(model, prompts, steps))
        found = [line.removeprefix("lie=") for line in swarm.fleet.servers[liar].lines if line.startswith("lie=")]
        assert made == expected[:1], found
        assert swarm.fleet.servers[liar].popen.poll() is None
        print(f"{liar}: {found[-1:]}: {seconds:.2f} s, longest pause {steps.pause():.2f} s")
