"""A network in memory: channels that deliver on the loop, and peers that dial each other by name.

Messages are encoded and decoded as on a real wire, so that what cannot travel fails here too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from swarm.errors import HopLost, PeerUnreachable, SwarmError
from swarm.network import Channel, Peer
from swarm.types import PeerId
from swarm.wire import Message, decode, encode


class End:
    """One end of a channel, with the surface of `swarm.network.Channel`; `sent` keeps what went out here.

    It takes messages from any thread once `loop` is set.
    """

    def __init__(self, remote: str) -> None:
        self.remote = PeerId(remote)
        self.is_open = True
        self.receiver: Any = None
        self.other: End | None = None
        self.sent: list[tuple[Message, bytearray]] = []
        self.refuses: SwarmError | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.num_sent_now = 0

    def send(self, message: Message, body: Any = b"") -> None:
        if not self.is_open:
            raise HopLost(f"channel to {self.remote} is closed")
        if self.refuses is not None:
            raise self.refuses
        frame = (decode(encode(message)), bytearray(body))
        self.sent.append(frame)
        if self.other is not None:
            asyncio.get_running_loop().call_soon(self.other.deliver, *frame)

    def try_send_now(self, frames: Sequence[tuple[Message, Any]]) -> bool:
        if self.loop is None or not self.is_open or self.refuses is not None:
            return False
        for message, body in frames:
            self.sent.append((decode(encode(message)), bytearray(body)))
            self.num_sent_now += 1
            if self.other is not None:
                self.loop.call_soon_threadsafe(self.other.deliver, *self.sent[-1])
        return True

    def deliver(self, message: Message, body: bytearray) -> None:
        if self.is_open and self.receiver is not None:
            try:
                self.receiver.received(self, message, body)
            except SwarmError as error:
                self.close(error)

    def close(self, reason: Exception | None = None) -> None:
        for end in (self, self.other):
            if end is not None and end.is_open:
                end.is_open = False
                if end.receiver is not None:
                    end.receiver.closed(end, reason)

    def messages(self, kind: type[Message]) -> list[Any]:
        return [message for message, _ in self.sent if isinstance(message, kind)]

    def as_channel(self) -> Channel:
        return cast(Channel, self)


def join(one: str, other: str) -> tuple[End, End]:
    """Return the ends that `one` and `other` hold of a channel between them."""
    near, far = End(other), End(one)
    near.other, far.other = far, near
    return near, far


class Net:
    """Peers by name; what accepts a channel gives its receiver."""

    def __init__(self) -> None:
        self.accepting: dict[str, Callable[[End], Any]] = {}
        self.dialled: list[tuple[str, str]] = []
        self.ends: dict[tuple[str, str], End] = {}
        self.gate: asyncio.Event | None = None

    def dial(self, one: str, other: str) -> End:
        if other not in self.accepting:
            raise PeerUnreachable(f"{other}: connection refused")
        self.dialled.append((one, other))
        near, far = join(one, other)
        far.receiver = self.accepting[other](far)
        self.ends[one, other] = near
        return near

    def peer(self, name: str) -> Peer:
        return cast(Peer, _FakePeer(self, name))


class _FakePeer:
    def __init__(self, net: Net, name: str) -> None:
        self._net = net
        self._name = name

    async def channel(self, peer: PeerId, addrs: Sequence[str] = ()) -> End:
        await asyncio.sleep(0)
        if self._net.gate is not None:
            await self._net.gate.wait()
        if peer == "no peer id":
            raise PeerUnreachable("'no peer id' is no peer id")
        return self._net.dial(self._name, peer)


async def settle(rounds: int = 20) -> None:
    """Let everything that is due on the loop happen."""
    for _ in range(rounds):
        await asyncio.sleep(0)
