"""The greeting of a private swarm's members: who has the key gets in, and nothing said before helps who has not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import PeerUnreachable, ProtocolError, SwarmError, VersionMismatch, WrongSwarmKey
from swarm.network import Closed, NetworkConfig, Peer
from swarm.network.greeting import Greeting
from swarm.swarm_key import SwarmKey
from swarm.types import PeerId
from swarm.wire import DialBack, Hello, Message, Open, Ping, Proof, decode, encode
from tests.network.ends import SESSION, pair, result

KEY, OTHER = SwarmKey(b"k" * 32), SwarmKey(b"o" * 32)
ANNE, BERT, EVE = PeerId("anne"), PeerId("bert"), PeerId("eve")


def dialler(key: SwarmKey | None = KEY, us: PeerId = ANNE, them: PeerId = BERT) -> Greeting:
    return Greeting(key, us, them, is_dialled=True)


def dialled(key: SwarmKey | None = KEY, us: PeerId = BERT, them: PeerId = ANNE) -> Greeting:
    return Greeting(key, us, them, is_dialled=False)


def sent(message: Message | None) -> Message:
    assert message is not None
    return decode(encode(message))


def greet(one: Greeting, other: Greeting) -> None:
    """Pass on what each says until nobody has anything to say."""
    message: Message | None = one.begin()
    while message is not None:
        other_says = other.answer(sent(message))
        message = None if other_says is None else one.answer(sent(other_says))


@pytest.mark.parametrize("key", [None, KEY])
def test_peers_of_one_swarm_know_each_other_afterwards(key: SwarmKey | None) -> None:
    one, other = dialler(key), dialled(key)
    assert one.hello is None and other.hello is None
    greet(one, other)
    assert one.hello is not None and other.hello is not None


@pytest.mark.parametrize(("ours", "theirs"), [(KEY, OTHER), (KEY, None), (None, KEY)])
def test_peers_of_two_swarms_refuse_each_other(ours: SwarmKey | None, theirs: SwarmKey | None) -> None:
    one, other = dialler(ours), dialled(theirs)
    with pytest.raises(WrongSwarmKey):
        greet(one, other)
    assert one.hello is None and other.hello is None


def test_a_peer_that_knows_nothing_of_keys_is_refused_by_members_and_welcome_elsewhere() -> None:
    old = Hello(3, 3, "old")
    assert isinstance(dialled(None).answer(old), Hello)
    for member in (dialled(KEY), dialler(KEY)):
        with pytest.raises(WrongSwarmKey, match="swarm join"):
            member.answer(old)


def test_the_proof_of_one_greeting_is_worth_nothing_in_another() -> None:
    one, other = dialler(), dialled()
    first = sent(one.begin())
    answer = sent(other.answer(first))
    proof = sent(one.answer(answer))
    assert isinstance(proof, Proof)
    later = dialled()
    later.answer(first)  # the same Hello again: the answer has a nonce of its own
    with pytest.raises(WrongSwarmKey):
        later.answer(proof)
    assert later.hello is None
    again = dialler()
    again.begin()
    with pytest.raises(WrongSwarmKey):
        again.answer(answer)  # an old answer to a new Hello
    assert other.answer(proof) is None and other.hello is not None


def test_nobody_between_two_members_can_pass_their_proofs_on() -> None:
    # Eve has no key. Anne dials her, and she dials Bert at the same time, saying to each what the other says.
    anne, bert = dialler(us=ANNE, them=EVE), dialled(us=BERT, them=EVE)
    answer = sent(bert.answer(sent(anne.begin())))
    with pytest.raises(WrongSwarmKey):
        anne.answer(answer)
    # Were Anne to answer nevertheless, Bert would not take it.
    proof = KEY.prove("channel: the dialler", ANNE.encode(), EVE.encode(), b"", b"")
    with pytest.raises(WrongSwarmKey):
        bert.answer(Proof(proof))
    assert anne.hello is None and bert.hello is None


def test_a_member_cannot_be_made_to_prove_itself_to_itself() -> None:
    # Eve sends each side's proof back to whom it came from.
    victim = dialled(us=BERT, them=EVE)
    answer = victim.answer(Hello(3, 3, "eve", nonce=b"n" * 32))
    assert isinstance(answer, Hello)
    with pytest.raises(WrongSwarmKey):
        victim.answer(Proof(answer.proof))


@pytest.mark.parametrize(
    "early", [Ping(1), Open(SESSION, "m", "f", 0, 1, "float32"), DialBack(1, ()), Hello(3, 3, "x")]
)
def test_nothing_is_heard_before_the_proof(early: Message) -> None:
    member = dialled()
    member.answer(Hello(3, 3, "eve", nonce=b"n" * 32))
    with pytest.raises(ProtocolError, match="before the proof"):
        member.answer(early)


def test_the_version_counts_before_the_key() -> None:
    with pytest.raises(VersionMismatch):
        dialled().answer(Hello(90, 99, "new"))


@given(st.binary(max_size=40), st.binary(max_size=40), st.booleans())
def test_made_up_nonces_and_proofs_let_nobody_in(nonce: bytes, proof: bytes, is_dialled: bool) -> None:
    member = dialler() if is_dialled else dialled()
    member.begin()
    for message in (replace(Hello(3, 3, "x"), nonce=nonce, proof=proof), Proof(proof)):
        try:
            heard = decode(encode(message))
            member.answer(heard)
        except SwarmError:
            continue
    assert member.hello is None


@pytest.mark.parametrize("carrier", ["libp2p", "direct"])
async def test_members_talk_over_both_carriers(carrier: str) -> None:
    async with pair(dialler_key=KEY, listener_key=KEY) as both:
        channel, inbox = await both.connect(carrier)
        channel.send(result(1), b"to")
        async with asyncio.timeout(5):
            while not both.inboxes:  # the dialler may speak at once; its proof is on the way
                await asyncio.sleep(0.01)
        assert await both.inboxes[0].next() == (result(1), bytearray(b"to"))
        both.inbound[0].send(result(2), b"fro")
        assert await inbox.next() == (result(2), bytearray(b"fro"))
        assert both.inbound[0]._stream.takes_from_any_thread == (carrier == "direct")


@pytest.mark.parametrize("carrier", ["libp2p", "direct"])
@pytest.mark.parametrize(("ours", "theirs"), [(OTHER, KEY), (None, KEY), (KEY, None)])
async def test_strangers_are_refused_over_both_carriers(
    carrier: str, ours: SwarmKey | None, theirs: SwarmKey | None
) -> None:
    async with pair(dialler_key=ours, listener_key=theirs) as both:
        with pytest.raises(WrongSwarmKey):
            await both.connect(carrier)
        assert both.inbound == [] and both.listener.channels == () and both.dialler.channels == ()


async def test_a_member_that_serves_nothing_dials_nobody_back_for_a_stranger() -> None:
    async with Peer.open(NetworkConfig(swarm_key=KEY)) as closed, Peer.open(NetworkConfig()) as stranger:
        await closed.serve(lambda channel: Closed(PeerUnreachable("nothing here")))
        await stranger.dial(closed.addrs[0])
        with pytest.raises(WrongSwarmKey):
            await stranger.ask_dial_back(closed.peer_id, [str(stranger.addrs[0])])
        with pytest.raises(WrongSwarmKey):
            await stranger.greet(closed.peer_id)
