"""Options of a client: what is refused."""

from __future__ import annotations

import pytest

from swarm.client import AutoModelForCausalLM, ClientConfig
from swarm.errors import AddressInvalid, UsageError


@pytest.mark.parametrize(
    ("options", "word"),
    [({"codec": "gzip"}, "gzip"), ({"chunk_tokens": 0}, "chunk"), ({"chunk_tokens": 1025}, "chunk")],
)
def test_values_out_of_range_are_refused(options: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        ClientConfig(initial_peers=("x",), **options)  # type: ignore[arg-type]


def test_unknown_options_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown option load_in_8bit; known: .*codec"):
        AutoModelForCausalLM.from_pretrained(initial_peers=["x"], load_in_8bit=True)


@pytest.mark.parametrize("peers", ["", "/ip4/127.0.0.1/tcp/1/p2p/x"])
def test_initial_peers_are_a_list_and_not_one_text(peers: object) -> None:
    with pytest.raises(UsageError, match="initial_peers"):
        AutoModelForCausalLM.from_pretrained(initial_peers=peers)  # type: ignore[arg-type]


def test_a_malformed_initial_peer_is_named() -> None:
    with pytest.raises(AddressInvalid, match="rubbish"):
        AutoModelForCausalLM.from_pretrained(initial_peers=["rubbish"])
