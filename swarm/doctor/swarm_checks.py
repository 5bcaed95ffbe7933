"""The checks of the swarm: the way in, clocks, models, servers, and whether a server here would be reached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from swarm.doctor.checks import Check
from swarm.doctor.config import DoctorConfig
from swarm.doctor.findings import Code, Finding, Level, fault, ok
from swarm.doctor.machine_checks import MachineChecks
from swarm.doctor.probes.hosts import look_here
from swarm.doctor.probes.joining import Joined, listening
from swarm.doctor.probes.knocks import KNOCK, Knock
from swarm.doctor.probes.visits import Greeting, Visit, choose, greet, is_same, knock_at, visit
from swarm.doctor.verdicts.introducers import CHECK as INITIAL_PEERS
from swarm.doctor.verdicts.introducers import judge_introducers
from swarm.doctor.verdicts.machine import judge_clocks
from swarm.doctor.verdicts.models import CHECK as MODELS
from swarm.doctor.verdicts.models import judge_model, lost_without
from swarm.doctor.verdicts.ourselves import CHECK as REACHABILITY
from swarm.doctor.verdicts.ourselves import judge_reach, judge_running, port_taken
from swarm.doctor.verdicts.places import is_local
from swarm.doctor.verdicts.servers import CHECK as SERVERS
from swarm.doctor.verdicts.servers import Surroundings, judge_server
from swarm.errors import PeerUnreachable, ProtocolError, SwarmError, SwarmUnreachable, WrongSwarmKey
from swarm.network import parse_addr
from swarm.network.addresses import parse_host_addr, tcp_endpoint
from swarm.network.dial_back import PAUSE
from swarm.network.residents import resident
from swarm.server.reachability import Reachability
from swarm.types import PeerId, Reach, ServerRecord, View

MAX_MODELS = 8
"""That are looked at if none was named, those with most servers first."""

MAX_CLOCKS = 4
"""Members that are asked for the time, beside the initial peers."""

MAX_MET = 4
"""Servers that are knocked at only to see whether anybody is elsewhere."""

SECOND_LOOK = 5.0
"""Seconds that must be left to look once more at what seems wrong: it may have ended in order, or been busy."""


class SwarmChecks:
    """The swarm, seen once however many checks ask.

    Args:
        knocks: What came of the initial peers' addresses.
        machine: For the files that are here.
    """

    def __init__(self, config: DoctorConfig, joined: Joined, knocks: Sequence[Knock], machine: MachineChecks) -> None:
        self._config = config
        self._joined = joined
        self._knocks = knocks
        self._machine = machine
        self._here = look_here()
        self._views: asyncio.Task[tuple[View, ...]] | None = None
        self._met: dict[PeerId, set[str]] = {}
        self._meet_at(knocks)
        self._times: dict[PeerId, asyncio.Task[float | None]] = {}

    def checks(self, seconds: float) -> list[Check]:
        """Return the checks; each ends within `seconds`."""
        self._deadline = asyncio.get_running_loop().time() + seconds
        checks = [
            Check(INITIAL_PEERS, seconds, self._introducers),
            Check("clock", seconds, self._clocks),
            Check(MODELS, seconds, self._models),
            Check(SERVERS, seconds, self._servers),
        ]
        if self._config.is_for_a_server:
            checks.append(Check(REACHABILITY, seconds, self._reachability))
        return checks

    async def _introducers(self) -> Sequence[Finding]:
        living = {knock.wanted: knock.addr for knock in self._knocks if knock.is_reached or not knock.can_tell}
        told = await asyncio.gather(*(self._meet(peer, addr) for peer, addr in living.items()))
        greetings = {peer: greeting for peer, greeting, _ in told}
        deaf = {peer: error for peer, _, error in told if error is not None}
        return judge_introducers(self._knocks, greetings, deaf)

    async def _meet(self, peer: PeerId, addr: str) -> tuple[PeerId, Greeting, SwarmError | None]:
        greeting = asyncio.create_task(greet(self._joined.peer, peer, (addr,)))
        try:
            await self._time_of(peer)
        except (PeerUnreachable, WrongSwarmKey) as error:
            return peer, await greeting, error
        return peer, await greeting, None

    async def _clocks(self) -> Sequence[Finding]:
        asked = [knock.wanted for knock in self._knocks if knock.is_reached]
        asked += [member for member in self._joined.directory.members if member not in asked][:MAX_CLOCKS]
        answers = await asyncio.gather(*map(self._time_of, dict.fromkeys(asked)), return_exceptions=True)
        told = zip(dict.fromkeys(asked), answers, strict=True)
        return judge_clocks({peer: seconds for peer, seconds in told if isinstance(seconds, float)})

    async def _time_of(self, peer: PeerId) -> float | None:
        if peer not in self._times:
            self._times[peer] = asyncio.create_task(self._joined.directory.time_of(peer))
        return await asyncio.shield(self._times[peer])

    async def _models(self) -> Sequence[Finding]:
        views = await self._all_views()
        found = []
        for view in views:
            if view.records:
                found += judge_model(view, await self._machine.own(view.model))
            else:
                found.append(await self._unserved(view.model))
        return found or [ok(MODELS, "the swarm serves no model yet")]

    async def _unserved(self, model: str) -> Finding:
        if self._config.is_for_a_server:
            return ok(MODELS, f"{model} is served by nobody yet; a server here would be its first")
        served = [entry.name for entry in await self._joined.directory.models()]
        others = f"the swarm serves {', '.join(served[:MAX_MODELS])}" if served else "the swarm serves no model"
        files = await self._machine.files()
        if files.checkpoint is None and not files.is_somewhere:
            text = f"{model}: no such folder or file here, no bundled model, no hub id, and not served; {others}"
            return fault(MODELS, Code.MODEL_UNUSABLE, text, "check the spelling", model)
        remedy = f"start a server for it: python -m swarm.server {model}"
        return fault(MODELS, Code.BLOCKS_UNCOVERED, f"{model}: no block is served by anybody; {others}", remedy, model)

    async def _servers(self) -> Sequence[Finding]:
        views = await self._all_views()
        chosen, number = choose(views)
        if not number:
            return [ok(SERVERS, "none is online")]
        peer = self._joined.peer
        if any(is_local(record.addrs) for _, record in chosen):
            await self._widen()
        visits = await asyncio.gather(*(visit(peer, record) for _, record in chosen))
        for each in visits:
            self._meet_at(each.knocks)
        found = [finding for each in visits if (finding := self._judge(each, views))]
        if any(finding.level is Level.FAULT for finding in found) and self._left() > SECOND_LOOK:
            found = await self._look_again(visits, views)
        what = f"{len(chosen)} of {number} servers were dialled, drawn by chance" if len(chosen) < number else ""
        if not found:
            return [ok(SERVERS, f"{what}; all answer" if what else f"all {number} answer")]
        return [*found, ok(SERVERS, what)] if what else found

    async def _look_again(self, visits: Sequence[Visit], views: Sequence[View]) -> list[Finding]:
        """Hold against nobody that he left, or came back, while we looked: what is wrong is still wrong."""
        doubted = [each for each in visits if self._judge(each, views)]
        names = {each.record.model for each in doubted}
        latest = {view.model: view for view in await asyncio.gather(*map(self._joined.directory.view, names))}
        now = {(view.model, record.peer): record for view in latest.values() for record in view.records}
        still = [now.get((each.record.model, each.record.peer)) for each in doubted]
        again = [new for each, new in zip(doubted, still, strict=True) if new and is_same(each.record, new)]
        visits = await asyncio.gather(*(visit(self._joined.peer, record) for record in again))
        views = [latest.get(view.model, view) for view in views]
        return [finding for each in visits if (finding := self._judge(each, views))]

    def _judge(self, each: Visit, views: Sequence[View]) -> Finding | None:
        record = each.record
        view = next(view for view in views if view.model == record.model)
        around = Surroundings(
            here=self._here,
            others=self._others(record.peer),
            lost=lost_without(view, record.peer),
            now=time.time(),
        )
        return judge_server(each, around)

    async def _widen(self) -> None:
        """Meet some servers of any model that are not on this machine: who is elsewhere must be known to be there.

        Words of a record would not do: one server with a wrong address in it would put all others in the wrong.
        """
        views: tuple[View, ...] = ()
        with suppress(SwarmUnreachable):
            views = await self._views_of_all() if self._config.model is not None else await self._all_views()
        far = [replace(view, records=tuple(r for r in view.records if not is_local(r.addrs))) for view in views]
        chosen, _ = choose(far, MAX_MET)
        for knocks in await asyncio.gather(*(knock_at(record) for _, record in chosen)):
            self._meet_at(knocks)

    def _meet_at(self, knocks: Sequence[Knock]) -> None:
        for each in knocks:
            if each.is_reached:
                self._met.setdefault(each.wanted, set()).add(each.host)

    def _others(self, peer: PeerId | None) -> list[tuple[str, ...]]:
        return [tuple(hosts) for other, hosts in self._met.items() if other != peer]

    async def _reachability(self) -> Sequence[Finding]:
        key = await self._machine.key()
        running = key.peer if key.is_in_use else None
        if running is None and self._joined.taken is not None:
            running = await self._who_listens()
            if running is None:
                return port_taken(str(self._joined.taken))
        if running is not None:
            return judge_running(running, await self._record_of(running))
        return await self._look_from_outside()

    async def _look_from_outside(self) -> Sequence[Finding]:
        peer = self._joined.peer
        looking = Reachability(peer, self._joined.directory)
        await looking.look()
        if looking.reach is not Reach.DIRECT and looking.finding.guessed:
            await asyncio.sleep(PAUSE + 0.1)  # nobody answers the same one sooner
            await looking.look()
        await self._widen()
        addrs = looking.addrs or tuple(str(addr) for addr in (*peer.addrs, *peer.direct_addrs))
        return judge_reach(looking.finding, addrs, self._others(None), self._here)

    async def _who_listens(self) -> PeerId | None:
        """The peer at the port that is taken; None if it is none."""
        for text in listening(self._config):
            endpoint = tcp_endpoint(parse_host_addr(text))
            if endpoint is None:
                continue
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(endpoint[0], endpoint[0])
            kind = "ip6" if ":" in host else "ip4"
            try:
                at = parse_addr(f"/{kind}/{host}/tcp/{endpoint[1]}/p2p/{self._joined.peer.peer_id}")
                return await resident(at, timeout=KNOCK)
            except (PeerUnreachable, ProtocolError):
                continue
        return None

    async def _record_of(self, peer: PeerId) -> ServerRecord | None:
        views = list(await self._all_views())
        if self._config.model is not None:  # it may serve another one
            views += await self._views_of_all()
        return next((record for view in views for record in view.records if record.peer == peer), None)

    async def _all_views(self) -> tuple[View, ...]:
        if self._views is None:
            self._views = asyncio.create_task(self._find_views())
        return await asyncio.shield(self._views)

    async def _find_views(self) -> tuple[View, ...]:
        name = (await self._machine.files()).name
        return (await self._joined.directory.view(name),) if name else await self._views_of_all()

    async def _views_of_all(self) -> tuple[View, ...]:
        names = dict.fromkeys(entry.name for entry in await self._joined.directory.models())
        return tuple(await asyncio.gather(*map(self._joined.directory.view, list(names)[:MAX_MODELS])))

    def _left(self) -> float:
        return self._deadline - asyncio.get_running_loop().time()
