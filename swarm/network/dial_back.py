"""Dialling back: finding out whether a peer can be reached from outside, by asking another to try.

Nobody can see from inside whether a router or a firewall lets connections in. So a peer asks, on a channel, and
whoever is asked dials the given addresses anew: the connection that carries the channel says nothing, for the asker
made it. A direct address must pass the TLS handshake that proves the asker's id; at a libp2p address it is enough that
whoever listens there speaks multistream-select first, as every libp2p host does.

What strangers ask for must harm nobody else. Only addresses with the very IP address that the asker's own connection
comes from are dialled, or private ones if it comes from a private network; never names, never relays. One request
per asker and some seconds, few at a time, each with a short deadline, and a dozen bytes sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from ipaddress import ip_address
from itertools import count

from multiaddr import Multiaddr

from swarm.errors import HopLost, PeerUnreachable, ProtocolError, SwarmError
from swarm.log import get_logger
from swarm.network import direct
from swarm.network.addresses import Endpoint, direct_endpoint, parse_addr, peer_id_of, plain_host, tcp_endpoint
from swarm.network.channel import Channel
from swarm.network.config import Timeouts
from swarm.network.dialling import os_reason
from swarm.types import PeerId
from swarm.wire import DialBack, DialedBack, Message
from swarm.wire.limits import MAX_TEXT

PAUSE = 2.0
"""Seconds between two requests of one asker that are answered; an honest one comes back after ten and more."""

MAX_AT_ONCE = 16
"""Requests that are worked on; each dials 16 addresses at most, for a second."""

MAX_ASKERS = 4096
"""Whose last request is remembered: as many as can hold a channel."""

GREETING = b"\x13/multistream/1.0.0\n"
"""What each side of a libp2p connection says first. Source: multiformats/multistream-select."""

logger = get_logger(__name__)


class DialBacks:
    """Answers those who ask to be dialled back, and keeps the questions that we asked."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._nonces = count(1)
        self._asked: dict[tuple[PeerId, int], asyncio.Future[DialedBack]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._askers: dict[PeerId, float] = {}

    async def ask(self, opening: AbstractAsyncContextManager[Channel], addrs: Sequence[str]) -> DialedBack:
        """Let the other end of a channel, which is opened for that, dial us back at `addrs`.

        Raises:
            PeerUnreachable, VersionMismatch, HopLost: It cannot be asked, or does not answer in time.
        """
        try:
            async with asyncio.timeout(self._timeouts.ask), opening as channel:
                return await self._ask(channel, addrs)
        except TimeoutError as error:
            raise PeerUnreachable(f"nothing was dialled back within {self._timeouts.ask:g} s") from error

    async def _ask(self, channel: Channel, addrs: Sequence[str]) -> DialedBack:
        key = (channel.remote, next(self._nonces))
        answer: asyncio.Future[DialedBack] = asyncio.get_running_loop().create_future()
        self._asked[key] = answer
        ended = asyncio.create_task(channel.wait_closed())
        try:
            channel.send(DialBack(key[1], tuple(addrs)))
            await asyncio.wait((answer, ended), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise HopLost(f"peer {channel.remote} ended the channel instead of dialling back")
            return answer.result()
        finally:
            ended.cancel()
            del self._asked[key]

    def received(self, channel: Channel, message: DialBack | DialedBack) -> None:
        """Somebody asks us, or answers."""
        if isinstance(message, DialedBack):
            answer = self._asked.get((channel.remote, message.nonce))
            if answer is not None and not answer.done():
                answer.set_result(message)
        elif why := self._refuses(channel):
            _tell(channel, DialedBack(message.nonce, (), why))
        else:
            task = asyncio.create_task(self._answer(channel, message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def close(self) -> None:
        """Give up all dials."""
        for task in tuple(self._answering):
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    def _refuses(self, channel: Channel) -> str:
        """Why a request of this channel is not looked at; empty if it is."""
        now = asyncio.get_running_loop().time()
        self._askers = {asker: at for asker, at in self._askers.items() if now - at < PAUSE}
        if channel.remote_host is None:
            return "you did not dial me yourself"
        if channel.remote in self._askers:
            return f"you asked less than {PAUSE:g} s ago"
        if len(self._answering) >= MAX_AT_ONCE or len(self._askers) >= MAX_ASKERS:
            return "many others ask"
        self._askers[channel.remote] = now
        return ""

    async def _answer(self, channel: Channel, message: DialBack) -> None:
        seen = channel.remote_host
        assert seen is not None
        results = await asyncio.gather(
            *(self._try(channel.remote, seen, addr) for addr in dict.fromkeys(message.addrs))
        )
        reached = tuple(addr for addr, why in results if not why)
        failures = "; ".join(f"{addr.partition('/p2p/')[0]}: {why}" for addr, why in results if why)
        _tell(channel, DialedBack(message.nonce, reached, failures[:MAX_TEXT], seen))

    async def _try(self, asker: PeerId, seen: str, text: str) -> tuple[str, str]:
        """Dial one address; return it, and why it was not reached."""
        try:
            addr = permitted(text, asker=asker, seen=seen)
            async with asyncio.timeout(self._timeouts.dial_back):
                if (endpoint := direct_endpoint(addr)) is not None:
                    await direct.probe(asker, endpoint, self._timeouts)
                elif (endpoint := tcp_endpoint(addr)) is not None:
                    await _greet(endpoint)
        except TimeoutError:
            return text, f"no answer within {self._timeouts.dial_back:g} s"
        except OSError as error:
            return text, os_reason(error)
        except SwarmError as error:
            return text, str(error)
        return text, ""


class Closed:
    """The receiver of a peer that serves nothing, or not yet: whatever comes ends the channel with `refusal`."""

    def __init__(self, refusal: SwarmError) -> None:
        self._refusal = refusal

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        """Refuse a message."""
        raise self._refusal

    def closed(self, channel: Channel, reason: Exception | None) -> None:
        """Nothing was held for it."""


def permitted(text: str, *, asker: PeerId, seen: str) -> Multiaddr:
    """Return the address that `text` writes, if somebody seen at the IP address `seen` may have it dialled.

    Raises:
        AddressInvalid, PeerUnreachable: It may not.
    """
    addr = parse_addr(text)
    endpoint = direct_endpoint(addr) or tcp_endpoint(addr)
    if peer_id_of(addr) != asker or endpoint is None:
        raise PeerUnreachable("only plain and direct TCP addresses of your own are dialled back")
    if not is_of_asker(endpoint[0], seen):
        raise PeerUnreachable(f"not dialled: you come from {seen}")
    return addr


def is_of_asker(host: str, seen: str) -> bool:
    """Whether the IP address `host` may be dialled for somebody who comes from `seen`; a name never."""
    try:
        wanted, origin = ip_address(plain_host(host)), ip_address(plain_host(seen))
    except ValueError:
        return False
    if wanted == origin:
        return True
    if wanted.version != origin.version or wanted.is_unspecified or wanted.is_multicast:
        return False
    return wanted.is_private and origin.is_private and (origin.is_loopback or not wanted.is_loopback)


async def _greet(endpoint: Endpoint) -> None:
    reader, writer = await asyncio.open_connection(*endpoint, limit=256)
    try:
        writer.write(GREETING)
        if await reader.readexactly(len(GREETING)) != GREETING:
            raise ProtocolError("something else than a peer listens there")
    except asyncio.IncompleteReadError:
        raise ProtocolError("whoever listens there hangs up") from None
    finally:
        writer.close()


def _tell(channel: Channel, answer: DialedBack) -> None:
    try:
        channel.send(answer)
    except SwarmError as error:
        logger.debug("peer %s: not told how dialling back went: %s", channel.remote, error)
