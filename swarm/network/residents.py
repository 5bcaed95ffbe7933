"""Who lives at an address: a connection of its own that asks nothing but who answers, and tells that without a daemon.

libp2p cannot be asked that: whoever is connected to a peer already takes that connection for an answer. So we begin
libp2p's handshake ourselves and end it once the other side has said who it is: multistream-select, then TLS, in which
each side shows a certificate that its ed25519 key has signed.
Source: github.com/libp2p/specs, tls/tls.md and connections/README.md.
"""

from __future__ import annotations

import asyncio
import ssl

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from multiaddr import Multiaddr

from swarm.errors import AddressInvalid, PeerUnreachable, ProtocolError
from swarm.network import direct
from swarm.network.addresses import Endpoint, direct_endpoint, tcp_endpoint
from swarm.network.config import Timeouts
from swarm.network.dial_back import GREETING
from swarm.network.dialling import os_reason
from swarm.network.identity import peer_id_of_packed, verify
from swarm.types import PeerId

_PROPOSAL = b"\x0b/tls/1.0.0\n"
"""What we propose to go on with; the length stands in front, as of each message of multistream-select."""

_EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
"""Of a certificate, where libp2p puts the host's key and its signature."""

_DOMAIN = b"libp2p-tls-handshake:"
"""First in what that key signs; behind it the certificate's own key."""

_KEY_HEAD, _SIGNATURE_HEAD = bytes.fromhex("30680424"), bytes.fromhex("0440")
"""ASN.1 of the extension where the key is an ed25519 one: 36 bytes of key, 64 of signature; others are not ours."""


async def resident(addr: Multiaddr, *, timeout: float) -> PeerId:
    """Return who answers at `addr`, plain TCP or a direct address, whatever id the address itself ends in.

    Raises:
        PeerUnreachable: Nobody listens there, or says anything within `timeout` seconds.
        ProtocolError: Who listens there is no peer of ours.
        AddressInvalid: It is another kind of address, such as one of a relay.
    """
    plain, direct_one = tcp_endpoint(addr), direct_endpoint(addr)
    try:
        async with asyncio.timeout(timeout):
            if plain is not None:
                return await _of_libp2p(plain)
            if direct_one is not None:
                return await direct.resident(direct_one, Timeouts(direct=timeout))
    except TimeoutError as error:
        raise PeerUnreachable(f"no answer within {timeout:g} s") from error
    except (ssl.SSLError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise ProtocolError("something else than a peer listens there") from error
    except OSError as error:
        raise PeerUnreachable(os_reason(error)) from error
    raise AddressInvalid(f"{addr}: only plain and direct TCP addresses can be asked who lives there")


async def _of_libp2p(endpoint: Endpoint) -> PeerId:
    reader, writer = await asyncio.open_connection(*endpoint, limit=4096)
    try:
        writer.write(GREETING + _PROPOSAL)
        if await reader.readexactly(len(GREETING)) != GREETING:
            raise ProtocolError("something else than a peer listens there")
        if await reader.readexactly(len(_PROPOSAL)) != _PROPOSAL:
            raise ProtocolError("a libp2p host that does not speak TLS, as no peer of ours, listens there")
        await writer.start_tls(_context())
        return _signer(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    finally:
        writer.transport.abort()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["libp2p"])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # no authority vouches: the extension says whose it is
    return context


def _signer(certificate: bytes | None) -> PeerId:
    try:
        parsed = x509.load_der_x509_certificate(certificate or b"")
        packed = parsed.extensions.get_extension_for_oid(_EXTENSION).value.public_bytes()
        own = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, x509.ExtensionNotFound, x509.InvalidVersion) as error:
        raise ProtocolError("a host without libp2p's certificate listens there") from error
    key, between, signature = packed[4:40], packed[40:42], packed[42:]
    if packed[:4] != _KEY_HEAD or between != _SIGNATURE_HEAD:
        raise ProtocolError("a host without an ed25519 key, as no peer of ours, listens there")
    peer = peer_id_of_packed(key)
    if not verify(peer, signature, _DOMAIN + own):
        raise ProtocolError(f"whoever listens there does not prove to be peer {peer}")
    return peer
