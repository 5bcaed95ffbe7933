from __future__ import annotations

import pytest
from multiaddr import Multiaddr

from swarm.errors import AddressInvalid
from swarm.network import best_first, parse_addr, parse_addrs, peer_id_of
from swarm.network.addresses import parse_host_addr, tcp_endpoint, without_peer

ID = "12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL"


@pytest.mark.parametrize(
    "text",
    [f"/ip4/1.2.3.4/tcp/5/p2p/{ID}", f"/dns4/example.org/tcp/5/p2p/{ID}", f"/ip6/::1/udp/5/quic-v1/p2p/{ID}"],
)
def test_a_whole_multiaddr_keeps_its_text_and_tells_its_peer(text: str) -> None:
    addr = parse_addr(text)
    assert str(addr) == text and peer_id_of(addr) == ID
    assert f"{without_peer(addr)}/p2p/{ID}" == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "foo",
        "1.2.3.4:5",
        "/ip4/1.2.3.4/tcp/5",
        "/ip4/1.2.3.4/tcp/99999/p2p/" + ID,
        "/ip4/x/tcp/5/p2p/" + ID,
        "/ip4/1.2.3.4/tcp/5/p2p/notanid",
        f"/ip4/1.2.3.4/tcp/5/p2p/{ID}/p2p-circuit",
        "/" * 2000,
        "/ip4/1.2.3.4/tcp",
    ],
)
def test_an_address_that_cannot_be_dialled_is_named(text: str) -> None:
    with pytest.raises(AddressInvalid) as caught:
        parse_addr(text)
    assert text[:40] in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_of_many_addresses_the_bad_one_is_named() -> None:
    with pytest.raises(AddressInvalid, match="broken"):
        parse_addrs([f"/ip4/1.2.3.4/tcp/5/p2p/{ID}", "/broken"])


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (f"/ip4/1.2.3.4/tcp/5/p2p/{ID}", ("1.2.3.4", 5)),
        ("/dns4/example.org/tcp/5", ("example.org", 5)),
        ("/ip6/::1/tcp/5", ("::1", 5)),
        ("/ip4/1.2.3.4/udp/5/quic-v1", None),
        (f"/ip4/1.2.3.4/tcp/5/p2p/{ID}/p2p-circuit/p2p/{ID}", None),
        ("/ip4/1.2.3.4/tcp/5/ws", None),
    ],
)
def test_only_plain_tcp_has_an_endpoint_that_we_can_try_ourselves(text: str, endpoint: tuple[str, int] | None) -> None:
    assert tcp_endpoint(parse_host_addr(text)) == endpoint


def test_addresses_that_others_can_use_come_first() -> None:
    local, public = Multiaddr("/ip4/127.0.0.1/tcp/1"), Multiaddr("/ip4/203.0.113.7/tcp/1")
    assert best_first([local, public]) == (public, local) and best_first([local]) == (local,)
