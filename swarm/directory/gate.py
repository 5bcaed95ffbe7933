"""The gate of a private swarm's directory: its calls have a name of their own, and members alone make and answer them.

- Other swarms' nodes do not know the name, so that neither asks the other anything: libp2p refuses the stream before
  a byte of a call is sent. The name follows from the key, and does not tell it; who meets us can read it.
- Each call and each answer carries a proof of the swarm's key over both peers' ids as libp2p has proved them, the
  whole message, a fresh nonce and the time. So nothing can be passed on to a third, or be said a second time, and
  who has learnt the name gets no further. It is an HMAC: 20 us a call, where a signature would take 400.

hivemind has hooks for this (`hivemind.utils.auth`), which are not told who calls.
"""

from __future__ import annotations

import secrets
from typing import Any

from hivemind.p2p import P2PContext, P2PDaemonError, P2PHandlerError, PeerID
from hivemind.proto import dht_pb2

from swarm.directory.swarm_time import SWARM_TIME
from swarm.errors import ProtocolError, WrongSwarmKey
from swarm.swarm_key import SwarmKey

WINDOW = 60.0
"""Seconds by which a call may be older or younger than now: for so long its nonce is remembered."""

MAX_NONCES = 1 << 16
"""That are remembered: 500 calls a second, all in time. Beyond it the oldest may be used again, by its own caller."""

_NONCE_BYTES = 16
_NOT_SUPPORTED = "not supported"
"""In what the daemon says of a peer that does not know the name of our calls."""


class Gate:
    """Proves our calls and answers, and looks at those of others."""

    def __init__(self, key: SwarmKey, us: PeerID) -> None:
        self.namespace = f"swarm-{key.prove('directory: name')[:16].hex()}"
        self._key = key
        self._us = us.to_bytes()
        self._nonces: dict[bytes, float] = {}

    def sign_call(self, name: str, request: Any, callee: PeerID) -> bytes:
        """Put time, nonce and proof into a request; return the nonce."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        request.auth.time, request.auth.nonce = SWARM_TIME.now(), nonce
        request.auth.signature = self._key.prove(f"call {name}", self._us, callee.to_bytes(), _packed(request))
        return nonce

    def check_call(self, name: str, request: Any, caller: PeerID) -> bool:
        """Look at a request to us; whether it is of our time, as all but newcomers' are.

        Raises:
            WrongSwarmKey: No member made it, or not for us.
            ProtocolError: It was made before.
        """
        proof = _taken(request)
        if not self._key.is_proof(proof, f"call {name}", caller.to_bytes(), self._us, _packed(request)):
            raise WrongSwarmKey("this is a private swarm, and the call does not prove its key")
        if abs(request.auth.time - SWARM_TIME.now()) > WINDOW:
            return False
        if len(request.auth.nonce) != _NONCE_BYTES or not self._is_new(request.auth.nonce):
            raise ProtocolError("the call was made before")
        return True

    def sign_answer(self, name: str, response: Any, nonce: bytes, caller: PeerID) -> None:
        """Put the proof into a response."""
        response.auth.nonce = nonce
        response.auth.signature = self._key.prove(f"answer {name}", self._us, caller.to_bytes(), _packed(response))

    def check_answer(self, name: str, response: Any, nonce: bytes, callee: PeerID) -> None:
        """Look at the response to a call of ours.

        Raises:
            WrongSwarmKey: It is no member's answer to this very call.
        """
        proof = _taken(response)
        is_member = self._key.is_proof(proof, f"answer {name}", callee.to_bytes(), self._us, _packed(response))
        if not is_member or response.auth.nonce != nonce:
            raise WrongSwarmKey("the answer does not prove the swarm's key")

    def _is_new(self, nonce: bytes) -> bool:
        now = SWARM_TIME.now()
        while self._nonces:
            oldest = next(iter(self._nonces))
            if len(self._nonces) < MAX_NONCES and now - self._nonces[oldest] <= 2 * WINDOW:
                break
            del self._nonces[oldest]
        if nonce in self._nonces:
            return False
        self._nonces[nonce] = now
        return True


class Calls:
    """What hivemind calls a stub, for one peer: each call is proved, and so must be its answer."""

    def __init__(self, gate: Gate, stub: Any, peer: PeerID) -> None:
        self._gate = gate
        self._stub = stub
        self._peer = peer

    async def rpc_ping(self, request: Any, timeout: float | None = None) -> Any:
        """Ask who and when the peer is."""
        return await self._call("ping", self._stub.rpc_ping, request, timeout)

    async def rpc_store(self, request: Any, timeout: float | None = None) -> Any:
        """Have the peer keep values."""
        return await self._call("store", self._stub.rpc_store, request, timeout)

    async def rpc_find(self, request: Any, timeout: float | None = None) -> Any:
        """Ask the peer for values, and for whom it knows."""
        return await self._call("find", self._stub.rpc_find, request, timeout)

    async def _call(self, name: str, call: Any, request: Any, timeout: float | None) -> Any:
        nonce = self._gate.sign_call(name, request, self._peer)
        response = await call(request, timeout=timeout)
        self._gate.check_answer(name, response, nonce, self._peer)
        return response


class Answers:
    """What hivemind calls a servicer: answers members, and them alone."""

    def __init__(self, gate: Gate, protocol: Any) -> None:
        self._gate = gate
        self._protocol = protocol

    async def rpc_ping(self, request: Any, context: P2PContext) -> Any:
        """Say who and when we are; a member of another time, who cannot be let in yet, is told the time."""
        if self._gate.check_call("ping", request, context.remote_id):
            response = await self._protocol.rpc_ping(request, context)
        else:
            response = dht_pb2.PingResponse(dht_time=SWARM_TIME.now())
        self._gate.sign_answer("ping", response, request.auth.nonce, context.remote_id)
        return response

    async def rpc_store(self, request: Any, context: P2PContext) -> Any:
        """Keep values."""
        return await self._answer("store", self._protocol.rpc_store, request, context)

    async def rpc_find(self, request: Any, context: P2PContext) -> Any:
        """Tell values, and whom we know."""
        return await self._answer("find", self._protocol.rpc_find, request, context)

    async def _answer(self, name: str, answer: Any, request: Any, context: P2PContext) -> Any:
        if not self._gate.check_call(name, request, context.remote_id):
            raise ProtocolError("the call is of another time; set the clock right")
        response = await answer(request, context)
        self._gate.sign_answer(name, response, request.auth.nonce, context.remote_id)
        return response


def is_of_another_swarm(error: BaseException) -> bool:
    """Whether a call failed because the peer has no directory that we could ask, or does not take us for a member."""
    if isinstance(error, P2PDaemonError):
        return _NOT_SUPPORTED in str(error)
    return isinstance(error, WrongSwarmKey) or (isinstance(error, P2PHandlerError) and "WrongSwarmKey" in str(error))


def _taken(message: Any) -> bytes:
    """Return a message's proof, which is taken out of it: it was made before it was put in."""
    proof = bytes(message.auth.signature)
    message.auth.signature = b""
    return proof


def _packed(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))
