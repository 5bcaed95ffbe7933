"""Bad input to the library: typed errors of one line with the remedy, and what else runs goes on."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from swarm import AutoModelForCausalLM, AutoTokenizer
from swarm.client import SwarmForCausalLM, Timeouts
from swarm.client.bridge import bridge
from swarm.demo.processes import LocalSwarm, local_swarm
from swarm.errors import (
    AddressInvalid,
    BlocksMissing,
    ModelNotFound,
    PromptTooLong,
    SwarmError,
    SwarmUnreachable,
    TokenOutOfRange,
    UsageError,
)
from swarm.network import NetworkConfig, Peer, parse_addr
from swarm.wire.frames import encode_prefix
from tests.builders import some_ids

pytestmark = pytest.mark.slow

NOBODY = "12D3KooWQuqyQHLDQuZ1tJpQdoT9zt5DgAd8E1UTYfogYfQvC2ut"
GREEDY: dict[str, Any] = {"do_sample": False, "eos_token_id": []}
BRIEF = Timeouts(join=2.0, coverage=1.0)


def one_line(error: pytest.ExceptionInfo[SwarmError], *words: str) -> None:
    """Check that the message is one line which has all the words."""
    text = str(error.value)
    assert "\n" not in text
    assert not [word for word in words if word not in text], text


def test_a_prompt_longer_than_the_context(tiny: SwarmForCausalLM) -> None:
    with pytest.raises(PromptTooLong) as told:
        tiny(some_ids(257)[None])
    one_line(told, "257", "256", "shorten the prompt")
    with pytest.raises(PromptTooLong) as told:
        tiny.generate(some_ids(257)[None], max_new_tokens=1, **GREEDY)
    one_line(told, "258", "256", "shorten the prompt")


def test_a_prompt_and_new_tokens_beyond_the_context(tiny: SwarmForCausalLM) -> None:
    with pytest.raises(PromptTooLong) as told:
        tiny.generate(some_ids(200)[None], max_new_tokens=58, **GREEDY)
    one_line(told, "258", "256", "max_new_tokens")
    # As long as the context is fine, to the last token.
    assert tiny.generate(some_ids(200)[None], max_new_tokens=56, **GREEDY).shape == (1, 256)


@pytest.mark.parametrize("token", [-1, 128, 1 << 40])
def test_a_token_outside_the_vocabulary(token: int, tiny: SwarmForCausalLM) -> None:
    ids = some_ids(5)[None]
    ids[0, 2] = token
    for call in (lambda: tiny(ids), lambda: tiny.generate(ids, max_new_tokens=2, **GREEDY)):
        with pytest.raises(TokenOutOfRange) as told:
            call()
        one_line(told, str(token), "0 to 127", "tokenizer")


def test_blocks_that_nobody_serves_are_named_with_the_wait(tiny_folder: Path, tmp_path: Path) -> None:
    with local_swarm(("1:2", "4:5"), model=str(tiny_folder), logs=tmp_path) as swarm:
        model = AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[swarm.addr], timeouts=BRIEF)
        for call in (model.route, lambda: model.generate(some_ids(4)[None], max_new_tokens=2)):
            with pytest.raises(BlocksMissing) as told:
                call()
            one_line(told, "0:1, 2:4, 5:6 of tiny", "waited 1 s", "--blocks")
        # What is served can be used.
        assert model.blocks[4:5](torch.ones(1, 3, 64)).shape == (1, 3, 64)


def test_a_swarm_that_serves_nothing(tmp_path: Path, tiny_folder: Path) -> None:
    with local_swarm((), logs=tmp_path) as swarm:
        with pytest.raises(ModelNotFound) as told:
            AutoModelForCausalLM.from_pretrained(initial_peers=[swarm.addr], timeouts=BRIEF)
        one_line(told, "serves no model", "start a server")
        model = AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[swarm.addr], timeouts=BRIEF)
        with pytest.raises(BlocksMissing) as told:
            model.generate(some_ids(4)[None], max_new_tokens=2)
        one_line(told, "0:6 of tiny")


def test_the_swarms_model_is_not_here(tiny_swarm: LocalSwarm) -> None:
    with pytest.raises(ModelNotFound) as told:
        AutoModelForCausalLM.from_pretrained(initial_peers=[tiny_swarm.addr])
    one_line(told, "tiny", "path")


def test_a_model_that_does_not_exist(tiny_swarm: LocalSwarm) -> None:
    with pytest.raises(ModelNotFound) as told:
        AutoModelForCausalLM.from_pretrained("no-such-model", initial_peers=[tiny_swarm.addr])
    one_line(told, "no-such-model", "check the spelling")
    with pytest.raises(ModelNotFound) as told:
        AutoTokenizer.from_pretrained("no-such-model")
    one_line(told, "no-such-model")


def test_unreachable_peers_are_named_each_with_its_reason(tiny_folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        addrs = [f"/ip4/127.0.0.1/tcp/{port}/p2p/{NOBODY}" for port in (9, probe.getsockname()[1])]
        with pytest.raises(SwarmUnreachable) as told:
            AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=addrs, timeouts=BRIEF)
    one_line(told, *addrs, "connection refused")


def test_a_wrong_peer_id_is_refused(tiny_folder: Path, tiny_swarm: LocalSwarm) -> None:
    addr = f"{tiny_swarm.addr.rpartition('/')[0]}/{NOBODY}"
    with pytest.raises(SwarmUnreachable) as told:
        AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[addr], timeouts=BRIEF)
    one_line(told, addr, "wrong peer id")


@pytest.mark.parametrize("addr", ["127.0.0.1:31337", "/ip4/127.0.0.1/tcp/31337", "", "/p2p/nobody"])
def test_a_malformed_address_is_named(addr: str, tiny_folder: Path) -> None:
    with pytest.raises(AddressInvalid) as told:
        AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[addr])
    one_line(told, addr, "write it like")


def test_options_are_checked_by_name_and_value(tiny_folder: Path, tiny_swarm: LocalSwarm) -> None:
    for options, words in (
        ({"codec": "int3"}, ("int3", "int8")),
        ({"chunk_tokens": 0}, ("chunk_tokens", "1024")),
        ({"device_map": "auto"}, ("device_map", "codec")),
        ({"dtype": "float99"}, ("float99", "bfloat16")),
    ):
        with pytest.raises(UsageError) as told:
            AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[tiny_swarm.addr], **options)
        one_line(told, *words)
    for peers in ([], tiny_swarm.addr):
        with pytest.raises(UsageError) as told:
            AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=peers)
        one_line(told, "initial_peers")


def test_what_remote_blocks_cannot_do_is_refused_by_name(tiny: SwarmForCausalLM) -> None:
    ids = some_ids(6)[None]
    for options, word in (
        ({"output_attentions": True}, "output_attentions"),
        ({"position_ids": torch.tensor([[0, 1, 2, 7, 8, 9]])}, "position_ids"),
        ({"attention_mask": torch.ones(1, 9)}, "attention_mask"),
    ):
        with pytest.raises(UsageError) as told:
            tiny(ids, **options)
        one_line(told, word)


def test_the_lossy_codec_stays_close(tiny_folder: Path, tiny_swarm: LocalSwarm, tiny: SwarmForCausalLM) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[tiny_swarm.addr], codec="int8")
    ids = some_ids(40)[None]
    exact, lossy = tiny(ids).logits, model(ids).logits
    assert 0 < float((exact - lossy).abs().max()) < 0.2 * float(exact.abs().max())


GARBAGE = {
    "noise": bytes(range(256)) * 8,
    "a header without end": b"\xff" * 8,
    "an unknown message": encode_prefix(4, 0) + b"\x91\xcd\x7f\xff",
    "a step with no session": encode_prefix(2, 0) + b"\x91\x06",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_ends_its_own_channel_and_no_generation(
    garbage: bytes, tiny_swarm: LocalSwarm, tiny: SwarmForCausalLM
) -> None:
    addr = tiny_swarm.ready[0]["addr"]

    async def send() -> bool:
        async with Peer.open(NetworkConfig(is_listening=False)) as stranger:
            channel = await stranger.channel(parse_addr(addr).get_peer_id(), [addr])
            channel._stream._transport.write(garbage)
            await channel.wait_closed()
            # The server talks to the same peer again.
            return (await stranger.channel(parse_addr(addr).get_peer_id(), [addr])).is_open

    ids = some_ids(20)[None]
    expected = tiny.generate(ids, max_new_tokens=30, **GREEDY)
    with tiny.inference_session():
        tiny.generate(ids, max_new_tokens=10, **GREEDY)
        assert bridge().run(send())
        assert torch.equal(tiny.generate(ids, max_new_tokens=30, **GREEDY), expected)
