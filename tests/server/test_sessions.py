"""The table of sessions: limits, and who owns what."""

from __future__ import annotations

import pytest

from swarm.errors import Busy, HopRefused, SessionLost
from swarm.server.sessions import Session, SessionTable
from swarm.types import PeerId, Span
from tests.fake_wire import End


def session(name: bytes, owner: End) -> Session:
    return Session(
        session_id=name * 16,
        owner=owner.as_channel(),
        client=owner.remote,
        span=Span(0, 1),
        codec="float32",
        next_peer=PeerId(""),
        next_addrs=(),
    )


def test_a_session_is_found_until_it_is_removed() -> None:
    table, one = SessionTable(2), session(b"a", End("client"))
    table.add(one)
    assert table.get(one.session_id) is one and list(table) == [one] and len(table) == 1
    assert table.remove(one.session_id) is one
    assert table.remove(one.session_id) is None
    with pytest.raises(SessionLost, match="61616161 is not open"):
        table.get(one.session_id)


def test_an_id_in_use_is_refused() -> None:
    table = SessionTable(2)
    table.add(session(b"a", End("client")))
    with pytest.raises(HopRefused, match="open already"):
        table.add(session(b"a", End("another")))


def test_no_more_sessions_than_allowed_are_taken() -> None:
    table = SessionTable(1)
    table.add(session(b"a", End("client")))
    with pytest.raises(Busy) as caught:
        table.add(session(b"b", End("client")))
    assert caught.value.retry_after > 0


def test_only_the_sessions_of_a_channel_end_with_it() -> None:
    table, client, other = SessionTable(6), End("client"), End("client")
    mine, also_mine, his = session(b"a", client), session(b"b", client), session(b"c", other)
    for each in (mine, also_mine, his):
        table.add(each)
    assert table.remove_owned(client.as_channel()) == [mine, also_mine]
    assert list(table) == [his]
