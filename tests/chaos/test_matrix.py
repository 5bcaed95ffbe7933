"""Nothing hangs: whatever is wrong with a server and the bootstrap, each call ends in time, well or with our error.

The server is the only one of its blocks, so nobody can take its place; the same fault hits the bootstrap at the same
time. Four calls are made at once under each fault, and must end within their deadlines; afterwards all is as before.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from swarm.client import SwarmForCausalLM, Timeouts
from swarm.errors import Busy
from tests.chaos.link import Fault, Link
from tests.chaos.starting import outcome, start_server
from tests.chaos.texts import Steps, generate, prompts_of, session, stream, together, within
from tests.chaos.yard import MAX_SESSIONS, PATIENT, Yard, daemons_of

pytestmark = pytest.mark.slow

DEADLINES = {"generate": 14.0, "stream": 14.0, "session": 14.0, "new client": 14.0, "start": 30.0, "placement": 30.0}
"""Seconds, with the timeouts below; starts include `STARTING`, and a stop that waits for the goodbye."""

SHORT = Timeouts(join=3.0, coverage=1.5, open=2.0, step=4.0, mend=6.0, busy=2.0)
STARTING = 7.0
"""Seconds that a server gets to join a swarm at which nobody answers, which it is to go on trying; 5 are its own."""

PLACING = 12.0
"""Seconds that one gets which has somebody to join: searches ask those, too, who do not answer."""

IN_EACH_RUN = ("SIGSTOP", "reset", "dead bootstrap")
"""The others only in the long tests: each fault takes about ten seconds."""
HEALED = 40.0
"""Seconds for a text after the fault: who was away is seen in the directory again, on a busy machine."""


@pytest.fixture(scope="module")
def gate(swarm: Yard) -> Link:
    """A link to the bootstrap."""
    return swarm.links.make_to(int(swarm.fleet.addr.split("/")[4]))


def through(gate: Link, addr: str) -> str:
    """The bootstrap's address, as reached over a link."""
    parts = addr.split("/")
    parts[4] = str(gate.ports[0])
    return "/".join(parts)


@contextmanager
def on_links(fault: Fault, swarm: Yard, gate: Link, name: str) -> Iterator[None]:
    with swarm.links.suffering(swarm.linked[name], fault), swarm.links.suffering(gate, fault):
        yield


@contextmanager
def stopped(swarm: Yard, gate: Link, name: str) -> Iterator[None]:
    """SIGSTOP to both processes; their daemons live on, and take connections."""
    with ExitStack() as stack:
        for popen in (swarm.fleet.servers[name].popen, swarm.fleet.bootstrap.popen):
            popen.send_signal(signal.SIGSTOP)
            stack.callback(popen.send_signal, signal.SIGCONT)
        yield


@contextmanager
def full(swarm: Yard, gate: Link, name: str) -> Iterator[None]:
    """Two other clients take all the sessions that the server has to give, each its half, and whatever becomes free."""
    impatient, is_over = Timeouts(busy=0.1), threading.Event()
    hogs = [
        swarm.client(model=swarm.model_of(name), reuse_prefixes=False, timeouts=impatient, view_age=view_age)
        for view_age in (5.1, 5.2)
    ]

    def take(hog: SwarmForCausalLM, stack: ExitStack) -> None:
        num_taken = 0
        while not is_over.is_set():
            with suppress(Busy):
                stack.enter_context(held(hog))
                num_taken += 1
            if num_taken >= MAX_SESSIONS // 2 - 2:
                is_over.wait(0.02)

    with ExitStack() as stack:
        takers = [threading.Thread(target=take, args=(hog, stack), daemon=True) for hog in hogs]
        for taker in takers:
            taker.start()
        time.sleep(1.0)
        try:
            yield
        finally:
            is_over.set()
            for taker in takers:
                taker.join(10.0)


@contextmanager
def held(model: SwarmForCausalLM) -> Iterator[None]:
    """A session that is open and does nothing."""
    cache = model.new_cache()
    try:
        model(torch.tensor([[5, 6, 7]]), past_key_values=cache)
        yield
    finally:
        cache.reset()


@contextmanager
def bootstrap_dead(swarm: Yard, gate: Link, name: str) -> Iterator[None]:
    """SIGKILL to the bootstrap, and to its daemon."""
    daemons = daemons_of(swarm.fleet.bootstrap.popen.pid)
    swarm.fleet.bootstrap.popen.kill()
    for daemon in daemons:
        daemon.kill()
    swarm.fleet.bootstrap.popen.wait()
    try:
        yield
    finally:
        swarm.soothe()


Wrong = Callable[[Yard, Link, str], Any]
FAULTS: dict[str, Wrong] = {
    "SIGSTOP": stopped,
    "half-open": lambda *where: on_links(Fault.HALF_OPEN, *where),
    "reset": lambda *where: on_links(Fault.RESET, *where),
    "drop": lambda *where: on_links(Fault.DROPPED, *where),
    "slow drip": lambda *where: on_links(Fault.DRIPPING, *where),
    "full": full,
    "dead bootstrap": bootstrap_dead,
}


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=() if fault in IN_EACH_RUN else pytest.mark.long) for fault in FAULTS]
)
def test_whatever_is_wrong_each_call_ends_in_time(swarm: Yard, small_folder: Path, gate: Link, fault: str) -> None:
    swarm.settle()
    small: dict[str, Any] = {"model": str(small_folder), "reuse_prefixes": False}
    usual = swarm.client(**small, timeouts=PATIENT)
    model = swarm.client(**small, timeouts=SHORT)
    prompts = prompts_of(3, model.config.vocab_size)
    expected = {way.__name__: way(usual, prompts, Steps()) for way in (generate, session)}
    expected["stream"] = expected["generate"]
    addr, left = through(gate, swarm.fleet.addr), swarm.addr_of("left")
    began, is_bad, is_over = threading.Barrier(3), threading.Event(), threading.Event()

    def hurt() -> None:
        with FAULTS[fault](swarm, gate, "right"):
            is_bad.set()
            is_over.wait(60.0)

    def under_way(way: Any) -> Callable[[], Any]:
        def hold() -> None:
            began.wait(20.0)
            is_bad.wait(20.0)

        return lambda: way(model, prompts, Steps({5: hold}))

    def late(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            assert is_bad.wait(30.0)
            return call()

        return run

    # Two calls are under way when it happens, the others begin then.
    calls: dict[str, Callable[[], Any]] = {
        "stream": under_way(stream),
        "session": under_way(session),
        "generate": late(lambda: generate(model, prompts, Steps())),
        "new client": late(
            lambda: generate(swarm.client(**small, timeouts=SHORT, initial_peers=[addr], fresh=True), prompts, Steps())
        ),
        "start": late(lambda: start_server(str(small_folder), "2", [addr], STARTING)),
        "placement": late(lambda: start_server(str(small_folder), "auto", [addr, left], PLACING)),
    }
    times: dict[str, tuple[Any, float]] = {}

    def timed(name: str) -> None:
        began_at = time.monotonic()
        try:
            made: Any = calls[name]()
        except BaseException as raised:
            made = raised
        times[name] = made, time.monotonic() - max(began_at, bad_at[0])

    bad_at: list[float] = []

    def make_it_bad() -> None:
        began.wait(30.0)
        bad_at.append(time.monotonic())
        hurt()

    spoiler = threading.Thread(target=make_it_bad, name="spoiler", daemon=True)
    spoiler.start()
    try:
        together(max(DEADLINES.values()) + 20.0, [lambda name=name: timed(name) for name in calls])
    finally:
        is_over.set()
        spoiler.join(60.0)
    for name, (made, seconds) in times.items():
        print(f"{fault}, {name}: {seconds:.1f} s: {outcome(made)}")
        assert seconds < DEADLINES[name]
        if name in expected and not isinstance(made, BaseException):
            assert made == expected[name]
    assert str(times["placement"][0]).startswith("ready"), "one peer of the swarm is enough to join it"
    if fault == "full":
        assert any(isinstance(times[name][0], Busy) for name in ("generate", "new client"))
    if fault == "dead bootstrap":
        assert times["generate"][0] == expected["generate"], "nobody needs it for a text"
    again, seconds = within(HEALED, lambda: stream(usual, prompts, Steps()))
    assert again == expected["stream"]
    print(f"{fault}: {seconds:.1f} s for a text afterwards")
