"""A swarm of real processes to be hurt: who is there, how each may be hurt, and how it is whole again."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psutil

from swarm import AutoModelForCausalLM
from swarm.client import SwarmForCausalLM, Timeouts
from swarm.client.bans import Bans
from swarm.client.bridge import bridge
from swarm.demo.fleet import Fleet, fleet
from swarm.types import View
from tests.chaos.link import Fault, Link, Links, free_pair
from tests.chaos.texts import SPECIAL, WAYS, Steps, Texts, prompts_of

SPANS = {"lower": "0:15", "upper": "15:30", "low": "0:10", "middle": "10:20", "high": "20:30", "across": "5:25"}
"""Of the bundled model. Routes go over the first two; whoever of these dies, the others hold all blocks."""

LINKED = ("lower", "upper", "middle", "high")
"""Servers that others reach over links; at least one of them is on any route."""

TTL = 5.0
FLAGS = ("--threads", "1", "--quant", "int4", "--ttl", f"{TTL:.0f}")
MAX_SESSIONS = 16
"""Of the servers of the tiny model: so that they can be full."""

ENDING_SECONDS = 40.0
"""After which a server that has been told to end, or has lost its daemon, must have ended."""

PATIENT = Timeouts(coverage=60.0)
"""A killed server needs some seconds to come back, on a busy machine many."""


class Yard:
    """The swarm of all chaos tests; made by `yard`."""

    def __init__(self, running: Fleet, links: Links) -> None:
        self.fleet = running
        self.links = links
        self.linked: dict[str, Link] = {}
        self._spans: dict[str, str] = {}
        self._models: dict[str, str] = {}
        self._flags: dict[str, tuple[str, ...]] = {}
        self._starting: set[str] = set()
        self._ending: set[str] = set()
        self._frozen: set[str] = set()
        self._ailing: dict[str, Link] = {}
        self._known: dict[tuple[Any, ...], Texts] = {}
        self._clients: dict[tuple[Any, ...], SwarmForCausalLM] = {}
        self.rng = random.Random(3)

    def add(self, spans: dict[str, str], *flags: str, model: str = "", linked: tuple[str, ...] = ()) -> None:
        """Launch servers; `settle` waits for them."""
        for name, blocks in spans.items():
            self._spans[name], self._models[name], self._flags[name] = blocks, model, flags
            if name in linked:
                self.linked[name] = self.links.make()
            self._launch(name)

    def settle(self, *, but: int = 0) -> None:
        """Wait until all servers are up, running, and reached as usual; so many may still be on their way."""
        self.soothe()
        if len(self._starting | self._ending) > but:
            for name in self._ending:
                self.fleet.servers[name].popen.wait(ENDING_SECONDS)
            self.soothe()
            starting, self._starting = self._starting, set()
            self.fleet.wait_ready(*starting)

    def soothe(self) -> None:
        """Let those run again that were stopped, mend links, and start again whoever has died."""
        for name in tuple(self._frozen):
            self.thaw(name)
        for link in self._ailing.values():
            link.delay = link.bytes_per_s = 0.0
            self.links.suffer(link, Fault.NONE)
        self._ailing.clear()
        for name in self._spans:
            if name not in self.fleet.servers or self.fleet.servers[name].popen.poll() is not None:
                self._ending.discard(name)
                self._launch(name)
        if self.fleet.bootstrap.popen.poll() is not None:
            self.fleet.restart_bootstrap()

    def client(self, *, fresh: bool = False, **options: Any) -> SwarmForCausalLM:
        """Return a model over the yard with exact texts; the same one for the same options, but without its bans."""
        options = {"codec": "float32", "timeouts": PATIENT, "initial_peers": [self.fleet.addr], **options}
        model = options.pop("model", "smollm2-135m")
        key = (model, *((name, str(value)) for name, value in sorted(options.items())))
        if fresh or key not in self._clients:
            self._clients[key] = AutoModelForCausalLM.from_pretrained(model, **options)
        found = self._clients[key]
        found._connection.routes.bans = Bans()
        return found

    def expected(self, model: SwarmForCausalLM, way: str, seed: int) -> Texts:
        """Return undisturbed texts, made once; what they leave on the servers may be found by others of this client.

        They begin with those that the way makes: all but the special ways make the same.
        """
        prompts = prompts_of(seed, model.config.vocab_size)
        kind = way if way in SPECIAL else "streams"
        key = (model._model.name, kind, seed)
        if key not in self._known:
            self._known[key] = WAYS[kind](model, prompts, Steps())
        return self._known[key]

    def name(self, model: SwarmForCausalLM, rng: random.Random, *, linked: bool = False) -> str:
        """Return somebody who is on the route of the newest session."""
        names = [self.fleet.name(hop.peer) for hop in model.route()]
        return rng.choice([name for name in names if name in LINKED or not linked] or names)

    def deserted(self) -> set[int]:
        """Blocks of the bundled model whose holders all have been hurt in a way that lasts."""
        alive = {name for name in SPANS if name in self.fleet.servers}
        ailing = {name for name, link in self._ailing.items() if link.fault is not Fault.NONE}
        spans = (SPANS[name].split(":") for name in alive - ailing - self._frozen - self._ending)
        return set(range(30)).difference(*(range(int(start), int(end)) for start, end in spans))

    def hurt(self, name: str, how: str) -> None:
        """Do something to a server, at once."""
        HURTS[how](self, name)

    def model_of(self, name: str) -> str:
        """Return the MODEL that a server was given."""
        return self._models[name]

    def addr_of(self, name: str) -> str:
        """Return where a server's daemon can be dialled."""
        return self.fleet.servers[name].lines[-1].rpartition("addr=")[2]

    def kill(self, name: str) -> None:
        """SIGKILL; it is gone when this returns."""
        self._starting.discard(name)
        self._ending.discard(name)
        self.fleet.signal(name, signal.SIGKILL)

    def restart(self, name: str) -> None:
        """SIGKILL, and the same server, with the same key, is on its way back."""
        self.kill(name)
        self._launch(name)

    def freeze(self, name: str) -> None:
        """SIGSTOP."""
        self._frozen.add(name)
        self.fleet.signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self._frozen.discard(name)
        if name in self.fleet.servers:
            self.fleet.signal(name, signal.SIGCONT)

    def blink(self, name: str) -> None:
        """A short SIGSTOP: no reason to give it up."""
        self.fleet.signal(name, signal.SIGSTOP)
        time.sleep(0.4)
        self.fleet.signal(name, signal.SIGCONT)

    def drain(self, name: str) -> None:
        """SIGTERM."""
        self._end(name)
        self.fleet.signal(name, signal.SIGTERM)

    def behead(self, name: str) -> None:
        """SIGKILL to its libp2p daemon."""
        self._end(name)
        for daemon in daemons_of(self.fleet.servers[name].popen.pid):
            daemon.kill()

    def slow(self, name: str) -> None:
        """A long and thin way to it."""
        link = self._ailing[name] = self.linked[name]
        link.delay, link.bytes_per_s = 0.03, 4e5

    def ail(self, name: str, fault: Fault) -> None:
        """Let its link be bad."""
        link = self._ailing[name] = self.linked[name]
        self.links.suffer(link, fault)

    def view(self, model: SwarmForCausalLM) -> View:
        """Return what the directory says now about the servers of a model, to this client."""
        directory = model._connection._directory
        assert directory is not None
        return bridge().run(directory.view(model._model.name))

    def _end(self, name: str) -> None:
        self._starting.discard(name)
        self._ending.add(name)

    def _launch(self, name: str) -> None:
        where: tuple[str, ...] = ()
        if name in self.linked:
            port, link = free_pair(), self.linked[name]
            link.upstream = (port, port + 1)
            where = ("--host-maddrs", f"/ip4/127.0.0.1/tcp/{port}", "--announce-maddrs", *link.addrs())
        self.fleet.launch({name: self._spans[name]}, *where, *self._flags[name], model=self._models[name] or None)
        self._starting.add(name)


Hurt = Callable[[Yard, str], None]


def _ailing(fault: Fault) -> Hurt:
    return lambda yard, name: yard.ail(name, fault)


LINK_HURTS: dict[str, Hurt] = {
    "slow": Yard.slow,
    **{fault.name.lower(): _ailing(fault) for fault in Fault if fault is not Fault.NONE},
}
HURTS: dict[str, Hurt] = {
    **{way.__name__: way for way in (Yard.kill, Yard.freeze, Yard.blink, Yard.drain, Yard.restart, Yard.behead)},
    **LINK_HURTS,
}


def daemons_of(pid: int) -> list[psutil.Process]:
    """The libp2p daemons that a process has started."""
    with suppress(psutil.NoSuchProcess):
        return [child for child in psutil.Process(pid).children() if "p2pd" in child.name()]
    return []


@contextmanager
def yard() -> Iterator[Yard]:
    """Run an empty swarm until the block is left; then everything is stopped."""
    with ExitStack() as stack:
        links = Links()
        stack.callback(links.close)
        running = Yard(stack.enter_context(fleet(*FLAGS)), links)
        try:
            yield running
        finally:
            for name in tuple(running._frozen):
                running.thaw(name)
