from __future__ import annotations

from swarm.server.verdict import Finding, announced, judge, remedy
from swarm.types import Reach
from swarm.wire import DialedBack

ME = "p2p/12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL"
INSIDE = f"/ip4/192.168.1.5/tcp/4001/{ME}"
INSIDE_DIRECT = f"/ip4/192.168.1.5/tcp/4002/tls/{ME}"
OUTSIDE = f"/ip4/8.8.8.8/tcp/4001/{ME}"


def asked(*addrs: str) -> dict[str, str]:
    return {addr: addr for addr in addrs}


def answer(*reached: str, seen: str = "8.8.8.8", text: str = "") -> DialedBack:
    return DialedBack(1, reached, text, seen)


def test_one_who_got_through_is_enough() -> None:
    finding = judge(asked(INSIDE, OUTSIDE), [answer(text="timed out"), answer(OUTSIDE)])
    assert (finding.reach, finding.reached, finding.seen) == (Reach.DIRECT, (OUTSIDE,), ("8.8.8.8",))
    assert announced((INSIDE, OUTSIDE), finding.reached) == (OUTSIDE, INSIDE)


def test_nobody_who_could_tell_means_unknown() -> None:
    assert judge(asked(INSIDE), []).reach is Reach.UNKNOWN


def test_an_address_that_nobody_may_dial_is_not_held_against_us() -> None:
    elsewhere = f"/ip4/9.9.9.9/tcp/4001/{ME}"
    quic = f"/ip4/8.8.8.8/udp/4001/quic-v1/{ME}"
    assert judge(asked(elsewhere), [answer()]).reach is Reach.UNKNOWN
    assert judge(asked(OUTSIDE, quic), [answer()]).reach is Reach.UNKNOWN
    assert judge(asked(OUTSIDE), [answer()]).reach is Reach.UNREACHABLE
    assert judge(asked(INSIDE), [answer()]).reach is Reach.UNREACHABLE


def test_who_is_beside_us_does_not_speak_for_those_outside() -> None:
    beside = answer(INSIDE, seen="192.168.1.5")
    assert judge(asked(INSIDE), [beside]).reach is Reach.DIRECT
    assert judge(asked(INSIDE), [beside, answer()]).reach is Reach.UNREACHABLE


def test_answers_about_what_was_not_asked_are_dropped() -> None:
    assert judge(asked(INSIDE), [answer(OUTSIDE)]).reach is Reach.UNREACHABLE


def test_a_port_that_the_router_forwards_is_found_under_the_address_that_others_see() -> None:
    finding = judge(asked(INSIDE, INSIDE_DIRECT), [answer()])
    direct = f"/ip4/8.8.8.8/tcp/4002/tls/{ME}"
    assert finding.guessed == (OUTSIDE, direct)
    finding = judge(asked(INSIDE, INSIDE_DIRECT, *finding.guessed), [answer(OUTSIDE)])
    assert (finding.reach, finding.guessed) == (Reach.DIRECT, (OUTSIDE,))
    assert judge(asked(INSIDE), [answer(seen="10.0.0.3")]).guessed == ()


def test_a_direct_port_that_is_closed_is_not_announced_where_the_other_one_is_open() -> None:
    outside_direct = f"/ip4/8.8.8.8/tcp/4002/tls/{ME}"
    addrs = (OUTSIDE, outside_direct, INSIDE, INSIDE_DIRECT)
    assert announced(addrs, (OUTSIDE,)) == (OUTSIDE, INSIDE, INSIDE_DIRECT)
    assert announced(addrs, (OUTSIDE, outside_direct)) == addrs
    assert announced(addrs, (outside_direct,)) == (outside_direct, OUTSIDE, INSIDE, INSIDE_DIRECT)
    assert announced(addrs, ()) == addrs
    assert Finding(reach=Reach.DIRECT, reached=(OUTSIDE,)).takes_calls
    assert not Finding(reach=Reach.DIRECT, reached=(outside_direct,)).takes_calls
    assert Finding().takes_calls and not Finding(reach=Reach.UNREACHABLE).takes_calls


def test_an_address_for_this_machine_only_is_not_told_to_others() -> None:
    here = f"/ip4/127.0.0.1/tcp/4001/{ME}"
    assert announced((OUTSIDE, here), (here, OUTSIDE)) == (OUTSIDE,)
    assert announced((INSIDE, here), (here,)) == (here, INSIDE)
    assert announced((INSIDE, here), ()) == (INSIDE, here)


def test_a_name_is_announced_where_its_address_was_reached() -> None:
    name = f"/dns4/server.example/tcp/4001/{ME}"
    finding = judge({OUTSIDE: name, INSIDE: INSIDE}, [answer(OUTSIDE)])
    assert (finding.reach, finding.reached) == (Reach.DIRECT, (name,))


def test_the_console_tells_what_is_wrong_and_what_to_do() -> None:
    finding = Finding(reach=Reach.UNREACHABLE, seen=("8.8.8.8",), text="no answer within 1 s")
    text = remedy(Reach.UNREACHABLE, finding, (INSIDE, INSIDE_DIRECT))
    for words in ("NOT REACHABLE", "no answer within 1 s", "TCP port 4001 and 4002", "--announce-maddrs /ip4/8.8.8.8/"):
        assert words in text
    assert "only through relays" in remedy(Reach.RELAYED, finding, (INSIDE,))
    assert "YOUR-PUBLIC-IP" in remedy(Reach.UNREACHABLE, Finding(), (INSIDE,))
    assert "all the same" in remedy(Reach.UNKNOWN, Finding(), ())
