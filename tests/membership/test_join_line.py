"""Join lines: what goes in comes out, and whatever else is given is refused without being quoted."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import UsageError
from swarm.membership import JoinLine
from swarm.membership.join_line import MAX_PEERS
from swarm.swarm_key import SwarmKey

ID = "12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL"
ADDRS = st.builds(
    lambda host, port, kind: (
        f"/{kind}/{host if kind == 'ip4' else 'host-' + host.replace('.', '-')}/tcp/{port}/p2p/{ID}"
    ),
    st.ip_addresses(v=4).map(str),
    st.integers(1, 65535),
    st.sampled_from(["ip4", "dns4"]),
)
KEYS = st.none() | st.binary(min_size=32, max_size=32).map(SwarmKey)
LINES = st.builds(JoinLine, st.lists(ADDRS, min_size=1, max_size=MAX_PEERS).map(tuple), KEYS)


@given(LINES, st.sampled_from(["", " ", "\n", "\r\n  "]), st.integers(1, 80))
def test_a_line_says_what_went_into_it_also_when_a_terminal_wrapped_it(line: JoinLine, gap: str, width: int) -> None:
    text = line.encode()
    assert text.isascii() and text.startswith("swarm1") and not set(text) & set(" \n'\"$\\=/+")
    wrapped = gap.join(text[at : at + width] for at in range(0, len(text), width))
    assert JoinLine.decode(gap + wrapped + gap) == line


@given(LINES, st.data())
def test_one_wrong_or_missing_letter_is_noticed(line: JoinLine, data: st.DataObject) -> None:
    text = line.encode()
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("ABCXYZabcxyz0189-_").filter(lambda other: other != text[at]))
    for changed in (text[:at] + letter + text[at + 1 :], text[:at] + text[at + 1 :]):
        if changed != text:
            with pytest.raises(UsageError):
                JoinLine.decode(changed)


@given(st.text(max_size=300) | st.from_regex(r"swarm1[A-Za-z0-9_-]{0,300}", fullmatch=True))
def test_whatever_else_is_given_is_refused_in_one_line_that_does_not_quote_it(text: str) -> None:
    with pytest.raises(UsageError) as told:
        JoinLine.decode(text)
    assert "\n" not in str(told.value)
    assert len(text) < 12 or text not in str(told.value)


def test_the_key_is_not_in_any_message_or_repr() -> None:
    key = SwarmKey.generate()
    text = JoinLine((f"/ip4/10.0.0.1/tcp/1/p2p/{ID}",), key).encode()
    with pytest.raises(UsageError) as told:
        JoinLine.decode(text[:-1] + ("A" if text[-1] != "A" else "B"))
    secrets = (key.to_bytes().hex(), base64.urlsafe_b64encode(key.to_bytes()).decode()[:20], text[10:30])
    for shown in (str(told.value), repr(JoinLine.decode(text))):
        assert not any(secret in shown for secret in secrets)


def test_a_newer_format_says_update() -> None:
    with pytest.raises(UsageError, match="update"):
        JoinLine.decode("swarm2" + "A" * 60)


def test_a_huge_line_is_refused_before_it_is_read() -> None:
    with pytest.raises(UsageError):
        JoinLine.decode("swarm1" + "A" * 1_000_000)


@pytest.mark.parametrize("addr", ["", "/ip4/10.0.0.1/tcp/1", "nonsense", f"/ip4/10.0.0.1/tcp/1/p2p/{ID} ", "/p2p/x"])
def test_an_address_that_is_none_has_no_place_in_a_line(addr: str) -> None:
    with pytest.raises(UsageError, match="p2p"):
        JoinLine((addr,)).encode()


@pytest.mark.parametrize("count", [0, MAX_PEERS + 1])
def test_a_line_names_some_peers_and_not_too_many(count: int) -> None:
    with pytest.raises(UsageError, match=str(MAX_PEERS)):
        JoinLine((f"/ip4/10.0.0.1/tcp/1/p2p/{ID}",) * count)
