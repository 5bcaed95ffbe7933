"""The directory: who serves what, as signed records that expire.

It holds nothing that a route may rely on for longer than a record's life, and decides nothing: a
view is a snapshot, planning is done elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from multiaddr import Multiaddr

from swarm.clock import Clock, SystemClock
from swarm.directory.acquaintances import Acquaintances
from swarm.directory.config import MAX_AHEAD, MAX_MODELS, MAX_REGISTRY_ENTRIES, Timeouts
from swarm.directory.joining import Joining
from swarm.directory.node import Node
from swarm.directory.signed import (
    RegistryEntry,
    model_key,
    open_value,
    registry_key,
    seal_entry,
    seal_record,
)
from swarm.directory.swarm_time import SWARM_TIME
from swarm.errors import DaemonDied, SwarmUnreachable, WrongSwarmKey
from swarm.log import get_logger
from swarm.network import Peer
from swarm.types import ModelEntry, PeerId, ServerRecord, ServerState, View

_GOODBYE_OUTLIVES = 0.5
"""Seconds by which a goodbye outlives the record that it replaces; more would delay a server that comes back."""

_GOODBYE_TIMEOUT = 2.0
"""Seconds that the goodbye may hold up a process that ends."""

logger = get_logger(__name__)


class Directory:
    """Our part of the swarm's directory. Made by `Directory.open`."""

    def __init__(self, peer: Peer, node: Node, joining: Joining, met: Acquaintances, clock: Clock) -> None:
        self._peer = peer
        self._node = node
        self._joining = joining
        self._met = met
        self._clock = clock
        self._expiries: dict[str, float] = {}
        self._key = peer.config.swarm_key

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        peer: Peer,
        *,
        initial_peers: Sequence[Multiaddr] = (),
        client_mode: bool = False,
        is_hidden: bool = False,
        timeouts: Timeouts | None = None,
    ) -> AsyncIterator[Directory]:
        """Take part in the directory until the block is left.

        Tries all initial peers at once and returns when one answered, or all failed, or `Timeouts.join`
        seconds are over; in the last two cases it goes on trying in the background.

        Args:
            initial_peers: Whom to join through, each ending in /p2p/ID; without any we are the first.
            client_mode: Store nothing for others, and stay out of their routing tables.
            is_hidden: Begin `hide`-den: nobody shall be sent to us before we know that we can be reached.

        Raises:
            DaemonDied: The peer's daemon does not answer.
        """
        timeouts = timeouts or Timeouts()
        try:
            node = await Node.start(peer.p2p, timeouts, is_client=client_mode, swarm_key=peer.config.swarm_key)
        except TimeoutError as error:
            raise DaemonDied("the libp2p daemon does not answer; start the process again") from error
        node.hide(is_hidden)
        met = Acquaintances.of(peer, initial_peers)
        joining = Joining(peer, node, initial_peers, timeouts, met.addrs)
        directory = cls(peer, node, joining, met, SystemClock())
        try:
            await joining.try_all()
            async with _background(joining.stay(), met.keep()):
                yield directory
        finally:
            await node.stop()

    @property
    def is_connected(self) -> bool:
        """Whether we know at least one other member of the directory."""
        return self._joining.is_connected

    @property
    def members(self) -> tuple[PeerId, ...]:
        """Other members of the directory that we know, clients not among them."""
        return self._node.neighbours

    async def hide(self, is_hidden: bool) -> None:
        """Stay out of others' routing tables, where whoever cannot be reached costs each search seconds; or enter them.

        Our own record is stored all the same, at others.
        """
        if is_hidden != self._node.is_hidden:
            self._node.hide(is_hidden)
            if not is_hidden and self.is_connected:
                await self._joining.look_around()

    async def wait_connected(self, timeout: float) -> None:
        """Wait until somebody else is there.

        Raises:
            SwarmUnreachable: Nobody within `timeout` seconds; names each initial peer and why it failed.
            WrongSwarmKey: Nobody, and an initial peer is of another swarm; at once if all of them are.
        """
        connected = asyncio.Event()
        self._joining.on_joined(connected.set)
        if self.is_connected:
            return
        try:
            async with asyncio.timeout(0.0 if self._joining.is_hopeless else timeout):
                await connected.wait()
        except TimeoutError as error:
            reasons = "; ".join(self._joining.failures.values()) or "no initial peers were given"
            if self._joining.is_refused:
                raise WrongSwarmKey(reasons) from error
            raise SwarmUnreachable(f"no initial peer answers within {timeout:g} s: {reasons}") from error

    def on_joined(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever we were alone and are no more; what we announced before may be known to nobody."""
        self._joining.on_joined(listener)

    async def time_of(self, peer: PeerId) -> float | None:
        """Return by how many seconds `peer`'s clock is ahead of this machine's; None if it tells no time.

        Raises:
            PeerUnreachable, WrongSwarmKey: It answers no calls of the directory, or none of ours.
        """
        ahead = await self._node.ask_time(peer)
        return None if ahead is None else ahead + SWARM_TIME.offset

    async def announce(self, record: ServerRecord, *, ttl: float) -> bool:
        """Publish our own record for `ttl` seconds, replacing the one before; whether anybody stored it.

        The record's own `expires_at` is not looked at. Also enters the model in the registry, unless
        enough others have.

        Raises:
            ValueError: Somebody else's record, or a ttl that the directory refuses.
        """
        if record.peer != self._peer.peer_id:
            raise ValueError(f"record of {record.peer}; only our own, {self._peer.peer_id}, can be announced")
        if not 0 < ttl <= MAX_AHEAD / 2:
            raise ValueError(f"ttl of {ttl} s; more than 0 and at most {MAX_AHEAD / 2:g} are possible")
        try:
            is_stored = await self._store(record, SWARM_TIME.now() + ttl)
            await self._register(record, ttl)
        except TimeoutError:
            logger.warning("announcing took too long")
            return False
        return is_stored

    async def withdraw(self, record: ServerRecord) -> None:
        """Say goodbye: an OFFLINE record that outlives the last announced one by a little."""
        key = model_key(record.model, self._key)
        expires_at = max(self._expiries.get(key, 0.0), SWARM_TIME.now()) + _GOODBYE_OUTLIVES
        try:
            async with asyncio.timeout(_GOODBYE_TIMEOUT):
                await self._store(replace(record, state=ServerState.OFFLINE), expires_at)
        except TimeoutError:
            logger.warning("the goodbye took too long; others will notice by the record's expiry")

    async def view(self, model: str) -> View:
        """Return a snapshot of all live records of `model`; empty if nobody serves it.

        Raises:
            SwarmUnreachable: The search took too long.
        """
        records = tuple(
            record for record in await self._find(model_key(model, self._key)) if isinstance(record, ServerRecord)
        )
        self._met.meet(records)
        alive = tuple(record for record in records if record.state is not ServerState.OFFLINE)
        return View(model=model, records=alive, taken_at=self._clock.unix())

    async def views(self) -> tuple[View, ...]:
        """Return a snapshot of each model that the registry lists, those listed by most servers first.

        Raises:
            SwarmUnreachable: A search took too long.
        """
        entries = [entry for entry in await self._find(registry_key(self._key)) if isinstance(entry, RegistryEntry)]
        names = [name for name, _ in Counter(entry.name for entry in entries).most_common(MAX_MODELS)]
        return tuple(await asyncio.gather(*(self.view(name) for name in names)))

    async def models(self) -> tuple[ModelEntry, ...]:
        """Return the models that are served now, those with most servers first.

        Raises:
            SwarmUnreachable: A search took too long.
        """
        views = await self.views()
        served = Counter(
            (record.model, record.fingerprint, record.num_blocks) for view in views for record in view.records
        )
        return tuple(
            ModelEntry(name=name, fingerprint=fingerprint, num_blocks=num_blocks, num_servers=count)
            for (name, fingerprint, num_blocks), count in served.most_common()
        )

    async def _store(self, record: ServerRecord, expires_at: float) -> bool:
        key = model_key(record.model, self._key)
        # The DHT takes a record over an older one only if it expires later.
        expires_at = max(expires_at, self._expiries.get(key, 0.0) + 0.001)
        if await self._store_sealed(key, record, expires_at):
            return True
        # Another life of this peer may have left a record that expires later than ours does.
        _, latest = (await self._node.get(key)).get(self._peer.peer_id, (None, 0.0))
        return latest >= expires_at and await self._store_sealed(key, record, latest + 0.001)

    async def _store_sealed(self, key: str, record: ServerRecord, expires_at: float) -> bool:
        value = seal_record(record, self._peer.identity, expires_at=expires_at, swarm_key=self._key)
        is_stored = await self._node.store(key, self._peer.peer_id, value, expires_at)
        if is_stored:
            self._expiries[key] = expires_at
        return is_stored

    async def _register(self, record: ServerRecord, ttl: float) -> None:
        now = SWARM_TIME.now()
        others = 0
        for subkey, (value, expires_at) in (await self._node.get(registry_key(self._key))).items():
            entry = open_value(registry_key(self._key), subkey, value, expires_at, self._key)
            is_same = isinstance(entry, RegistryEntry) and entry.name == record.model
            if is_same and subkey != self._peer.peer_id and expires_at > now + ttl / 3:
                others += 1
        if others >= MAX_REGISTRY_ENTRIES:
            return
        entry = RegistryEntry(record.model, record.fingerprint, record.num_blocks)
        expires_at = now + ttl
        value = seal_entry(entry, self._peer.identity, expires_at=expires_at, swarm_key=self._key)
        await self._node.store(registry_key(self._key), self._peer.peer_id, value, expires_at)

    async def _find(self, key: str) -> list[ServerRecord | RegistryEntry]:
        try:
            found = await self._node.get(key)
        except TimeoutError as error:
            raise SwarmUnreachable(f"looking up {key} took too long; is the network up?") from error
        now = SWARM_TIME.now()
        opened = []
        for subkey, (value, expires_at) in found.items():
            if now < expires_at <= now + MAX_AHEAD:
                opened.append(_localised(open_value(key, subkey, value, expires_at, self._key)))
        return [each for each in opened if each is not None]


@asynccontextmanager
async def _background(*work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    # Not a TaskGroup: it would wrap what the block raises, and these tasks handle their own faults.
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _localised(found: ServerRecord | RegistryEntry | None) -> ServerRecord | RegistryEntry | None:
    if isinstance(found, ServerRecord):
        return replace(found, expires_at=SWARM_TIME.to_local(found.expires_at))
    return found
