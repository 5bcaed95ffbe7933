"""The direct carrier of channels: TCP with TLS 1.3 between two processes, no daemon between them.

libp2p remains the way in: for the directory, for relays, and for peers whose direct port cannot be reached.
Each frame then passes two daemons, which costs more than everything else that a hop does beside its
compute (docs/overhead.md). The same ed25519 keys prove both sides here:

- The server's certificate holds the public key that its peer id contains, and TLS proves that it has the
  private one; names and authorities play no part.
- The client's first bytes are its peer id and a signature of that certificate's digest. Nobody but this server
  sees it, and no other server accepts it, so it cannot be relayed or replayed.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from multiaddr import Multiaddr

from swarm.errors import PeerUnreachable, ProtocolError
from swarm.log import get_logger
from swarm.network.addresses import Endpoint, tcp_endpoint
from swarm.network.config import Timeouts
from swarm.network.identity import Identity, peer_id_of_key, verify
from swarm.network.sockets import Doors, dial, remote_host
from swarm.network.stream import Stream
from swarm.network.tls import TlsTransport
from swarm.types import PeerId
from swarm.wire import Message

_PROOF = b"swarm direct channel 1: I speak to the holder of the certificate "
"""Stands in front of the digest that a client signs: the signature means nothing elsewhere."""

_SIGNATURE_BYTES = 64
MAX_ENTERING = 256
"""Connections that have not yet proved who they are; each holds 32 KiB."""

_NO_GOODBYE = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
"""Lets us send what is unsent although the other side ended without a goodbye; OpenSSL 3 refuses it else."""

_ACCEPT_PAUSE = 1.0
"""Seconds until it is tried again, once no file descriptor is left."""

MAX_ENDPOINTS = 8
"""Of one peer that are tried at once."""

Accept = Callable[[Stream, PeerId], None]
"""Takes a stream over, from a peer that has proved its id."""

logger = get_logger(__name__)


class DirectListener:
    """Listens for direct connections; `accept` gets each once its peer id is proved."""

    def __init__(self, identity: Identity, accept: Accept, timeouts: Timeouts) -> None:
        certificate, key = identity.certificate()
        self._digest = _digest(certificate)
        self._context = _server_context(certificate, key)
        self._accept = accept
        self._timeouts = timeouts
        self._entering: set[_Entering] = set()
        self._doors = Doors(self._enter)

    async def open(self, endpoints: Sequence[Endpoint]) -> int:
        """Listen at these endpoints, all on one port; return it.

        The port is the one above the first endpoint's, so that whoever opens a firewall knows it; any free one if
        that is 0 or taken.

        Raises:
            OSError: This machine has no such address.
        """
        host, port = endpoints[0]
        try:
            chosen = await self._doors.open(host, port + 1 if port else 0)
        except OSError as error:
            logger.info("direct port %d: %s; taking another one", port + 1, error.strerror)
            chosen = await self._doors.open(host, 0)
        for other in dict.fromkeys(host for host, _ in endpoints[1:]):
            if other != host:
                await self._doors.open(other, chosen)
        return chosen

    def close(self) -> None:
        """Take no more connections, and drop those that have not proved who they are."""
        self._doors.close()
        for entering in tuple(self._entering):
            entering.give_up()

    def _enter(self, sock: socket.socket) -> None:
        if len(self._entering) >= MAX_ENTERING:
            # The longest there has had the most time to prove itself.
            next(iter(self._entering)).give_up()
        entering = _Entering(self._entering, 2 * self._timeouts.hello)
        stream = Stream(self._on_prelude, owner=entering)
        stream.remote_host = remote_host(sock)
        try:
            transport = TlsTransport(sock, self._context, stream, close_timeout=self._timeouts.close)
        except OSError as error:
            entering.on_lost(error)
            return
        entering.transport = transport
        transport.ready.add_done_callback(entering.on_ready)
        transport.start(handshake_timeout=self._timeouts.hello)

    def _on_prelude(self, stream: Stream, prelude: bytes) -> None:
        signature, text = prelude[:_SIGNATURE_BYTES], prelude[_SIGNATURE_BYTES:].decode("ascii", "replace")
        if not verify(PeerId(text), signature, _PROOF + self._digest):
            raise ProtocolError(f"a direct connection that does not prove to be peer {text!r:.80}")
        assert isinstance(stream.owner, _Entering)
        stream.owner.leave()
        self._accept(stream, PeerId(text))


class _Entering:
    """Owns an inbound stream until its peer id is proved, for so many seconds at most."""

    def __init__(self, others: set[_Entering], timeout: float) -> None:
        self.transport: TlsTransport | None = None
        self._others = others
        self._timer = asyncio.get_running_loop().call_later(timeout, self.give_up)
        others.add(self)

    def leave(self) -> None:
        """Somebody else owns the stream from now on, or nobody needs to."""
        self._timer.cancel()
        self._others.discard(self)

    def give_up(self) -> None:
        """End the stream."""
        self.leave()
        if self.transport is not None:
            self.transport.abort()

    def on_ready(self, handshake: asyncio.Future[None]) -> None:
        """The handshake was made, or failed."""
        if (error := handshake.exception()) is not None:
            logger.debug("direct connection refused: %s", error)
            self.leave()

    def on_message(self, message: Message, body: bytearray) -> None:
        """Cannot happen: frames follow the prelude, at which the channel takes over."""
        raise ProtocolError("a frame before the proof")

    def on_broken(self, error: Exception) -> None:
        """What came is no proof."""
        logger.debug("direct connection refused: %s", error)
        self.give_up()

    def on_lost(self, error: Exception | None) -> None:
        """It went away."""
        self.leave()


async def connect(identity: Identity, peer: PeerId, endpoints: Sequence[Endpoint], timeouts: Timeouts) -> Stream:
    """Return a stream to `peer` over the first endpoint at which it proves itself; our proof is sent.

    Raises:
        PeerUnreachable: It is at none of them; the message names each and the reason.

    Cancelled: all attempts end.
    """
    waiting = {
        asyncio.create_task(_connect_at(identity, peer, endpoint, timeouts)) for endpoint in endpoints[:MAX_ENDPOINTS]
    }
    reasons: list[str] = []
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            streams = [task.result() for task in done if task.exception() is None]
            if streams:
                for stream in streams[1:]:
                    stream.abort()
                return streams[0]
            for task in done:
                if not isinstance(error := task.exception(), OSError | PeerUnreachable):
                    await task  # a fault of ours: raised as it is
                reasons.append(str(error))
        raise PeerUnreachable(f"peer {peer}: no direct connection: {'; '.join(reasons) or 'no address'}")
    finally:
        await _abandon(waiting)


async def _abandon(attempts: Iterable[asyncio.Task[Stream]]) -> None:
    for task in attempts:
        task.cancel()
    for result in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(result, Stream):  # it succeeded while being cancelled
            result.abort()


async def probe(peer: PeerId, endpoint: Endpoint, timeouts: Timeouts) -> None:
    """See whether `peer` takes direct connections at `endpoint`: a handshake in which it proves itself, no more.

    Raises:
        OSError, PeerUnreachable: It does not.
    """
    transport, _, _ = await _secure(peer, endpoint, timeouts)
    transport.abort()


async def resident(endpoint: Endpoint, timeouts: Timeouts) -> PeerId:
    """Return who takes direct connections at `endpoint`, as the handshake proves.

    Raises:
        OSError: Nobody does.
        ProtocolError: Who listens there is no peer.
    """
    transport, _, certificate = await _shake_hands(endpoint, timeouts)
    transport.abort()
    if (peer := _peer_of(certificate)) is None:
        raise ProtocolError("something else than a peer listens there")
    return peer


async def _connect_at(identity: Identity, peer: PeerId, endpoint: Endpoint, timeouts: Timeouts) -> Stream:
    _, stream, certificate = await _secure(peer, endpoint, timeouts)
    stream.send_prelude(identity.sign(_PROOF + _digest(certificate)) + identity.peer_id.encode())
    return stream


async def _secure(peer: PeerId, endpoint: Endpoint, timeouts: Timeouts) -> tuple[TlsTransport, Stream, bytes]:
    """Return a connection whose other end proved to be `peer`, and its certificate."""
    transport, stream, certificate = await _shake_hands(endpoint, timeouts)
    if _peer_of(certificate) != peer:
        transport.abort()
        raise PeerUnreachable(f"{endpoint[0]}:{endpoint[1]}: another peer lives there")
    return transport, stream, certificate


async def _shake_hands(endpoint: Endpoint, timeouts: Timeouts) -> tuple[TlsTransport, Stream, bytes]:
    """Return a connection, and the certificate whose key the other end proved to have."""
    sock, stream = await dial(*endpoint), Stream(None)
    transport = TlsTransport(sock, _CLIENT_CONTEXT, stream, close_timeout=timeouts.close)
    try:
        transport.start(handshake_timeout=timeouts.direct)
        await transport.ready
        return transport, stream, transport.certificate()
    except BaseException:
        transport.abort()
        raise


def direct_addrs(addrs: Sequence[Multiaddr], port: int, peer: PeerId) -> tuple[Multiaddr, ...]:
    """Return where a direct listener on `port` is found, given where libp2p says that it is."""
    found = []
    for addr in addrs:
        if tcp_endpoint(addr) is not None:
            kind, host = next(iter(addr.items()))
            found.append(Multiaddr(f"/{kind.name}/{host}/tcp/{port}/tls/p2p/{peer}"))
    return tuple(dict.fromkeys(found))


def _server_context(certificate: bytes, key: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= _NO_GOODBYE
    context.num_tickets = 0  # a resumed session would show no certificate
    # The ssl module only reads files; the folder is ours alone (0700), and is gone at once.
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        pem = Path(folder, "both.pem")
        pem.write_bytes(key + ssl.DER_cert_to_PEM_cert(certificate).encode())
        context.load_cert_chain(pem)
    return context


def _client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= _NO_GOODBYE
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # no authority vouches: `_connect_at` compares the key itself
    return context


_CLIENT_CONTEXT = _client_context()


def _peer_of(certificate: bytes) -> PeerId | None:
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm):  # the last two are no ValueErrors
        return None
    return peer_id_of_key(key) if isinstance(key, Ed25519PublicKey) else None


def _digest(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()
