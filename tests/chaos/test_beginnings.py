"""What a swarm begins with may die: the bootstrap, a client's own daemon; and a peer left alone waits quietly."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest

from swarm.errors import SwarmError
from tests.chaos.starting import outcome
from tests.chaos.texts import Steps, generate, prompts_of, session, stream, together, within
from tests.chaos.yard import Yard, daemons_of

pytestmark = pytest.mark.slow

IDLE_SECONDS = 10.0
IDLE_CORES = 0.05


def test_texts_go_on_without_the_bootstrap_and_newcomers_join_through_anybody(swarm: Yard) -> None:
    swarm.settle()
    model = swarm.client(reuse_prefixes=False)
    prompts = prompts_of(0, model.config.vocab_size)
    expected = swarm.expected(model, "session", 0)
    texts = swarm.expected(model, "stream", 0)
    daemons = daemons_of(swarm.fleet.bootstrap.popen.pid)

    def end() -> None:
        for process in (swarm.fleet.bootstrap.popen, *daemons):
            process.kill()

    made, seconds = within(60.0, lambda: session(model, prompts, Steps({9: end})))
    assert made == expected
    swarm.fleet.bootstrap.popen.wait()
    newcomer = swarm.client(initial_peers=[swarm.fleet.addr, swarm.addr_of("low")], fresh=True, reuse_prefixes=False)
    begun, joined = within(30.0, lambda: stream(newcomer, prompts, Steps()))
    assert begun == texts[:1]
    swarm.settle()
    late = swarm.client(fresh=True, view_age=4.9, reuse_prefixes=False)
    again, _ = within(30.0, lambda: generate(late, prompts, Steps()))
    assert again == texts[:1]
    print(f"without a bootstrap: {seconds:.2f} s; a newcomer: {joined:.2f} s")


def test_a_client_whose_daemon_dies_says_so_and_can_begin_again(swarm: Yard) -> None:
    swarm.settle()
    options = {"reuse_prefixes": False, "view_age": 4.8}
    model = swarm.client(**options)
    prompts = prompts_of(0, model.config.vocab_size)
    expected = swarm.expected(model, "stream", 0)
    peer = model._connection._peer
    assert peer is not None

    def end() -> None:
        peer._daemon.process.kill()

    ended = together(40.0, [lambda: stream(model, prompts, Steps({6: end})), lambda: session(model, prompts, Steps())])
    for made, seconds in ended:
        print(f"own daemon killed: {seconds:.1f} s: {outcome(made)}")
    assert isinstance(ended[0][0], SwarmError) or ended[0][0] == expected[:1]
    with pytest.raises(SwarmError):  # not a wait of minutes, nor a silent start of another one
        within(20.0, lambda: stream(model, prompts, Steps()))
    again = swarm.client(**options, fresh=True)
    made, seconds = within(30.0, lambda: stream(again, prompts, Steps()))
    assert made == expected[:1]


def test_a_server_left_alone_idles_and_is_there_again_when_the_others_are(swarm: Yard, small_folder: Path) -> None:
    swarm.settle()
    model = swarm.client(model=str(small_folder), reuse_prefixes=False)
    prompts = prompts_of(2, model.config.vocab_size)
    expected = stream(model, prompts, Steps())
    alone = swarm.fleet.servers["left"].popen.pid
    others = [swarm.fleet.bootstrap.popen.pid]
    others += [server.popen.pid for name, server in swarm.fleet.servers.items() if name != "left"]
    processes = [psutil.Process(pid) for pid in others] + [daemon for pid in others for daemon in daemons_of(pid)]
    watched = [psutil.Process(alone), *daemons_of(alone)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(1.0)
        before = [sum(process.cpu_times()[:2]) for process in watched]
        time.sleep(IDLE_SECONDS)
        used = [sum(process.cpu_times()[:2]) - first for process, first in zip(watched, before, strict=True)]
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
    print(f"alone for {IDLE_SECONDS:.0f} s: {used[0]:.2f} s of a core, its daemon {used[1]:.2f} s")
    assert sum(used) < IDLE_CORES * IDLE_SECONDS
    made, seconds = within(60.0, lambda: stream(model, prompts, Steps()))
    assert made == expected
    print(f"a text {seconds:.1f} s after all had slept")
