"""The greeting: what both sides of a channel say before anything else, and what members of a private swarm prove by it.

The dialler says Hello, the other side answers with its own. With a swarm key:

    dialler  Hello(nonce D)
    dialled  Hello(nonce A, proof of the dialled over both peer ids and both nonces)
    dialler  Proof(proof of the dialler over the same), and whatever it wants to say, at once

The peer ids are those that the carrier has proved, TLS or libp2p, so that nobody between the two can pass a proof on;
both nonces are fresh, so that none can be used again; each side's proof is of its own kind, so that none can be sent
back to whom it came from. It costs the dialler no round trip, and those without a key nothing at all.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from swarm.errors import ProtocolError, WrongSwarmKey
from swarm.swarm_key import SwarmKey
from swarm.types import PeerId
from swarm.wire import Hello, Message, Proof
from swarm.wire.handshake import agree, our_hello
from swarm.wire.limits import NONCE_BYTES

_DIALLED, _DIALLER = "channel: the dialled", "channel: the dialler"


class Greeting:
    """One side of one greeting: messages in, messages out, no I/O.

    Attributes:
        hello: The other side's Hello, once it is done; None before.
    """

    def __init__(self, key: SwarmKey | None, us: PeerId, them: PeerId, *, is_dialled: bool) -> None:
        self.hello: Hello | None = None
        self._key = key
        self._is_dialled = is_dialled
        self._them = them
        self._ids = (us.encode(), them.encode()) if is_dialled else (them.encode(), us.encode())
        self._nonce = secrets.token_bytes(NONCE_BYTES) if key is not None else b""
        self._unproved: Hello | None = None

    def begin(self) -> Hello:
        """Return what the dialler says first."""
        return our_hello() if self._key is None else replace(our_hello(), nonce=self._nonce)

    def answer(self, message: Message) -> Message | None:
        """Take what the other side says; return what we say to it.

        Raises:
            VersionMismatch: There is no version in common.
            WrongSwarmKey: The other side has another key than we have, or one of us has none.
            ProtocolError: Nothing of that kind belongs here.
        """
        if self._unproved is not None:
            self._finish(message, self._unproved)
            return None
        if not isinstance(message, Hello):
            raise ProtocolError(f"{type(message).__name__} before Hello")
        agree(message)
        if (self._key is None) != (not message.nonce):
            raise WrongSwarmKey(_told(we_have_one=self._key is not None))
        if self._is_dialled:
            return self._answer_dialled(message)
        return self._answer_dialler(message)

    def _answer_dialled(self, theirs: Hello) -> Message | None:
        """We dialled: the other side has proved itself with its Hello, or has not."""
        self.hello = theirs
        if self._key is None:
            return None
        nonces = self._nonce, theirs.nonce
        if not self._key.is_proof(theirs.proof, _DIALLED, *self._ids, *nonces):
            self.hello = None
            raise WrongSwarmKey("the two peers are of private swarms with different keys")
        return Proof(self._key.prove(_DIALLER, *self._ids, *nonces))

    def _answer_dialler(self, theirs: Hello) -> Message:
        if self._key is None:
            self.hello = theirs
            return our_hello()
        self._unproved = theirs
        proof = self._key.prove(_DIALLED, *self._ids, theirs.nonce, self._nonce)
        return replace(our_hello(), nonce=self._nonce, proof=proof)

    def _finish(self, message: Message, theirs: Hello) -> None:
        assert self._key is not None
        if not isinstance(message, Proof):
            raise ProtocolError(f"{type(message).__name__} before the proof of the swarm key")
        if not self._key.is_proof(message.proof, _DIALLER, *self._ids, theirs.nonce, self._nonce):
            raise WrongSwarmKey("the two peers are of private swarms with different keys")
        self._unproved, self.hello = None, theirs


def _told(*, we_have_one: bool) -> str:
    # Read by whoever made the mistake, on this side or the other.
    if we_have_one:
        return "one peer is of a private swarm and the other shows no key; give --swarm-key FILE, or `swarm join` LINE"
    return "one peer is of a swarm open to all and the other comes with a swarm key; each keeps to its own"
