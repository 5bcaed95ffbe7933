"""The reception: what all channels talk to, whatever span is served behind it, or while none is.

Channels outlive spans: a client that had sessions here keeps its channel while we move, and may use it for others.
"""

from __future__ import annotations

from dataclasses import astuple

from swarm.errors import Busy, ProtocolError, SessionLost, SwarmError
from swarm.network import Channel
from swarm.server.answers import send
from swarm.server.handler import Handler
from swarm.server.tally import Tally
from swarm.types import EngineStats, PeerId
from swarm.wire import AskStats, Cancel, Close, Error, Find, Message, Open, Replay, Stats, Step
from swarm.wire.encoding import error_of

LOADING = 2.0
"""Seconds after which whoever wants a session is to ask again. Not a refusal: a server that was killed and is back may
be the only one of its blocks, and who is refused does not ask again."""


class Reception:
    """Passes on to the handler of the span that is served.

    Attributes:
        handler: It; None while we load.
        tally: What was done here, whatever span was served.
    """

    def __init__(self) -> None:
        self.handler: Handler | None = None
        self.tally = Tally()

    def stats(self) -> EngineStats:
        """Return what the engine does; nothing while we load."""
        return EngineStats() if self.handler is None else self.handler.stats()

    def received(self, channel: Channel, message: Message, body: bytearray) -> None:
        """Act on one message, as `Handler.received`; without a handler, refuse what wants an answer."""
        if self.handler is not None:
            self.handler.received(channel, message, body)
            return
        match message:
            case Open():
                self._tell(channel, Busy("this server is loading its blocks", retry_after=LOADING), message.session)
            case Step():
                self._tell(channel, _lost(), message.session, message.step)
            case Replay():
                self._tell(channel, _lost(), message.session, message.first)
            case Find():
                self._tell(channel, _lost(), message.session)
            case AskStats():
                send(channel, Stats(astuple(self.stats())))
            case Close() | Cancel() | Error():
                pass  # about sessions that have ended
            case _:
                raise ProtocolError(f"{type(message).__name__} is not for a server")

    def closed(self, channel: Channel, reason: Exception | None) -> None:
        """A channel ended, and its sessions with it."""
        if self.handler is not None:
            self.handler.closed(channel, reason)

    def tell_client(self, error: Error) -> None:
        """A next hop complains; see `Handler.tell_client`."""
        if self.handler is not None:
            self.handler.tell_client(error)

    def lost_link(self, peer: PeerId) -> None:
        """The link to a next hop ended; see `Handler.lost_link`."""
        self.tally.links_lost += 1
        if self.handler is not None:
            self.handler.lost_link(peer)

    def _tell(self, channel: Channel, error: SwarmError, session: bytes, step: int = 0) -> None:
        self.tally.failed(error)
        send(channel, error_of(error, session=session, step=step))


def _lost() -> SessionLost:
    return SessionLost("this server is loading other blocks: its sessions have ended")
