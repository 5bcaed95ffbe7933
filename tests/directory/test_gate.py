"""The gate of a private swarm's directory, on hivemind's own messages: made up, passed on, and said a second time."""

from __future__ import annotations

from typing import Any

import pytest
from hivemind.p2p import P2PContext, PeerID
from hivemind.proto import dht_pb2
from hypothesis import given
from hypothesis import strategies as st

from swarm.directory import gate as gate_module
from swarm.directory.gate import WINDOW, Answers, Calls, Gate
from swarm.directory.swarm_time import SWARM_TIME
from swarm.errors import ProtocolError, WrongSwarmKey
from swarm.network import Identity
from swarm.swarm_key import SwarmKey

KEY, OTHER = SwarmKey(b"k" * 32), SwarmKey(b"o" * 32)


def someone() -> PeerID:
    identity = Identity.load(None)
    identity.close()
    return PeerID.from_base58(identity.peer_id)


ANNE, BERT, EVE = someone(), someone(), someone()


def ping() -> Any:
    return dht_pb2.PingRequest(peer=dht_pb2.NodeInfo(node_id=b"n" * 20))


def heard(message: Any) -> Any:
    """What arrives of a message."""
    return type(message).FromString(message.SerializeToString())


def called(key: SwarmKey = KEY, caller: PeerID = ANNE, callee: PeerID = BERT, name: str = "ping") -> Any:
    request = ping()
    Gate(key, caller).sign_call(name, request, callee)
    return heard(request)


def test_a_members_call_is_let_in_once() -> None:
    gate, request = Gate(KEY, BERT), called()
    assert gate.check_call("ping", heard(request), ANNE)
    with pytest.raises(ProtocolError, match="before"):
        gate.check_call("ping", heard(request), ANNE)


@pytest.mark.parametrize(
    ("request_", "caller", "name"),
    [
        (ping(), ANNE, "ping"),
        (called(OTHER), ANNE, "ping"),
        (called(), EVE, "ping"),
        (called(callee=EVE), ANNE, "ping"),
        (called(name="find"), ANNE, "ping"),
    ],
    ids=["no proof", "another key", "passed on by another", "made for another", "made for another call"],
)
def test_other_calls_are_not_answered(request_: Any, caller: PeerID, name: str) -> None:
    with pytest.raises(WrongSwarmKey):
        Gate(KEY, BERT).check_call(name, heard(request_), caller)


def test_nothing_of_a_call_can_be_changed() -> None:
    for change in ("node", "time", "nonce"):
        request = called()
        if change == "node":
            request.peer.node_id = b"e" * 20
        elif change == "time":
            request.auth.time += 1
        else:
            request.auth.nonce = b"e" * 16
        with pytest.raises(WrongSwarmKey):
            Gate(KEY, BERT).check_call("ping", request, ANNE)


def test_a_call_of_another_time_is_known_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for off in (-2 * WINDOW, 2 * WINDOW):
        request = called()
        monkeypatch.setattr(SWARM_TIME, "offset", off)
        assert not Gate(KEY, BERT).check_call("ping", heard(request), ANNE)
        monkeypatch.undo()


def test_nonces_are_forgotten_in_time_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "MAX_NONCES", 10)
    gate = Gate(KEY, BERT)
    requests = [called() for _ in range(25)]
    assert all(gate.check_call("ping", heard(request), ANNE) for request in requests)
    assert len(gate._nonces) == 10
    with pytest.raises(ProtocolError):
        gate.check_call("ping", heard(requests[-1]), ANNE)
    monkeypatch.setattr(SWARM_TIME, "offset", 3 * WINDOW)
    assert gate.check_call("ping", called(), ANNE) and len(gate._nonces) == 1


class Node:
    """A servicer that notes what gets through to it."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def rpc_ping(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return dht_pb2.PingResponse(peer=dht_pb2.NodeInfo(node_id=b"b" * 20), dht_time=1.0)

    async def rpc_find(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return dht_pb2.FindResponse(peer=dht_pb2.NodeInfo(node_id=b"b" * 20))


class Wire:
    """A stub that carries calls to somebody's answers; `spoil` changes what comes back."""

    def __init__(self, answers: Answers, caller: PeerID, spoil: Any = None) -> None:
        self._answers, self._caller, self._spoil = answers, caller, spoil

    async def _carry(self, method: Any, request: Any) -> Any:
        context = P2PContext(handle_name="", local_id=BERT, remote_id=self._caller)
        response = heard(await method(heard(request), context))
        return response if self._spoil is None else self._spoil(response)

    async def rpc_ping(self, request: Any, timeout: float | None = None) -> Any:
        return await self._carry(self._answers.rpc_ping, request)

    async def rpc_find(self, request: Any, timeout: float | None = None) -> Any:
        return await self._carry(self._answers.rpc_find, request)


async def test_a_member_gets_its_answer_and_believes_no_other() -> None:
    node, old = Node(), []
    answers = Answers(Gate(KEY, BERT), node)
    calls = Calls(Gate(KEY, ANNE), Wire(answers, ANNE, lambda response: old.append(response) or response), BERT)
    assert (await calls.rpc_ping(ping())).peer.node_id == b"b" * 20 and len(node.asked) == 1

    def changed(response: Any) -> Any:
        response.peer.node_id = b"e" * 20
        return response

    for spoil in (changed, lambda _: old[0], lambda _: dht_pb2.PingResponse()):
        spoiled = Calls(Gate(KEY, ANNE), Wire(answers, ANNE, spoil), BERT)
        with pytest.raises(WrongSwarmKey):
            await spoiled.rpc_ping(ping())
    with pytest.raises(WrongSwarmKey):  # it says that it is Eve's, and Bert it is who answers
        await Calls(Gate(KEY, ANNE), Wire(answers, ANNE), EVE).rpc_ping(ping())


async def test_a_newcomer_of_another_time_is_told_the_time_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node()
    gate, answers = Gate(KEY, ANNE), Answers(Gate(KEY, BERT), node)
    monkeypatch.setattr(gate_module, "WINDOW", -1.0)
    calls = Calls(gate, Wire(answers, ANNE), BERT)
    response = await calls.rpc_ping(ping())
    assert not response.peer.node_id and abs(response.dht_time - SWARM_TIME.now()) < 5 and node.asked == []
    with pytest.raises(ProtocolError, match="time"):
        await calls.rpc_find(dht_pb2.FindRequest())
    assert node.asked == []


@given(st.binary(max_size=64), st.binary(max_size=32), st.floats())
def test_whatever_a_stranger_puts_into_a_call_it_is_not_let_in(proof: bytes, nonce: bytes, moment: float) -> None:
    request = ping()
    request.auth.signature, request.auth.nonce, request.auth.time = proof, nonce, moment
    with pytest.raises(WrongSwarmKey):
        Gate(KEY, BERT).check_call("ping", request, ANNE)


def test_the_name_of_the_calls_tells_swarms_apart_and_no_key() -> None:
    names = {Gate(key, who).namespace for key in (KEY, OTHER) for who in (ANNE, BERT)}
    assert len(names) == 2 and not any(KEY.to_bytes().hex()[:8] in name for name in names)
