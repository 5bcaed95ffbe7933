"""What the answers of those who dialled us back mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from swarm.network import parse_addr
from swarm.network.addresses import Endpoint, direct_endpoint, is_loopback, plain_host, tcp_endpoint
from swarm.types import Reach
from swarm.wire import DialedBack


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of one look.

    Attributes:
        reach: DIRECT, UNREACHABLE, or UNKNOWN if nobody could tell.
        reached: Our addresses at which somebody got to us.
        guessed: Addresses that are not known to be ours: those of our ports at the IP address that others see.
        seen: IP addresses that our connections come from.
        text: Why we were not reached, in the words of one who tried.
    """

    reach: Reach = Reach.UNKNOWN
    reached: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    text: str = ""

    @property
    def takes_calls(self) -> bool:
        """Whether libp2p, over which the directory's calls go, reaches us, as far as anybody can tell."""
        if self.reach is Reach.DIRECT:
            return any(tcp_endpoint(parse_addr(addr)) is not None for addr in self.reached)
        return self.reach is Reach.UNKNOWN


def judge(asked: Mapping[str, str], answers: Sequence[DialedBack]) -> Finding:
    """Return what these answers say of us.

    Args:
        asked: The addresses as they were asked about, and as we announce them.
        answers: Those of peers that tried.
    """
    # One beside us behind the same router says nothing of those outside; if all are beside us, they are the swarm.
    answers = [answer for answer in answers if ip_address(answer.seen).is_global] or answers
    seen = tuple(dict.fromkeys(answer.seen for answer in answers))
    reached = tuple(
        dict.fromkeys(asked[addr] for answer in answers for addr in answer.addrs if addr in asked)
    )  # a stranger's answer: what we did not ask about says nothing
    text = next((answer.text for answer in answers if answer.text), "")
    guessed = _guesses(asked.values(), seen)
    if reached:
        kept = tuple(addr for addr in guessed if addr in reached)
        return Finding(reach=Reach.DIRECT, reached=reached, guessed=kept, seen=seen, text=text)
    # Nobody dials an address that we do not come from, for it may be a stranger's: it may well be good.
    if not answers or any(_is_beyond(addr, seen) for addr in asked):
        return Finding(seen=seen, text=text)
    return Finding(reach=Reach.UNREACHABLE, guessed=guessed, seen=seen, text=text)


def announced(addrs: Iterable[str], reached: Sequence[str]) -> tuple[str, ...]:
    """Return what to announce of `addrs`: those first at which we were reached, and some not at all.

    A direct port that is closed is left out: whoever tries it waits for a second before he takes the way that is open.
    So are addresses that only work on this machine, if another was reached: on other machines, others listen there.
    """
    hosts = {endpoint[0] for addr in reached if (endpoint := _endpoint_of(addr)) is not None}
    kept = [addr for addr in dict.fromkeys(addrs) if addr in reached or _direct_host(addr) not in hosts]
    if not all(is_loopback(parse_addr(addr)) for addr in reached):
        kept = [addr for addr in kept if not is_loopback(parse_addr(addr))]
    return tuple(sorted(kept, key=lambda addr: addr not in reached))


def remedy(reach: Reach, finding: Finding, addrs: Sequence[str]) -> str:
    """Return what is wrong and what the owner can do, for the console.

    Args:
        addrs: Where we listen.
    """
    if reach is Reach.UNKNOWN:
        return "nobody can tell whether this server is reachable; clients are sent here all the same"
    ports = sorted({endpoint[1] for addr in addrs if (endpoint := _endpoint_of(addr)) is not None})
    where = " and ".join(map(str, ports))
    outside = next((host for host in finding.seen if ip_address(host).is_global), "YOUR-PUBLIC-IP")
    if reach is Reach.RELAYED:
        what = "this server is reached only through relays, which is slower: nobody can dial it"
    else:
        what = "NOT REACHABLE: no client is sent to this server, for nobody can dial it, and no peer relays for it"
    return (
        f"{what} ({finding.text[:200]}). Remedy: let TCP port {where} in, at the firewall of this machine, and forward "
        f"it at the router; give a fixed --port; if the outside address is another one than this machine's, also "
        f"--announce-maddrs /ip4/{outside}/tcp/PORT. We look again from time to time"
    )


def _endpoint_of(addr: str) -> Endpoint | None:
    parsed = parse_addr(addr)
    return direct_endpoint(parsed) or tcp_endpoint(parsed)


def _direct_host(addr: str) -> str | None:
    endpoint = direct_endpoint(parse_addr(addr))
    return None if endpoint is None else endpoint[0]


def _is_beyond(addr: str, seen: Sequence[str]) -> bool:
    """Whether nobody who sees us at `seen` can say anything about `addr`."""
    endpoint = _endpoint_of(addr)
    if endpoint is None:
        return True
    host = plain_host(endpoint[0])
    return ip_address(host).is_global and host not in seen


def _guesses(addrs: Iterable[str], seen: Sequence[str]) -> tuple[str, ...]:
    """Our ports at the public address that others see: a router may forward them, as those of rented machines do."""
    guesses = []
    for addr in addrs:
        endpoint = _endpoint_of(addr)
        for host in seen:
            if endpoint is not None and endpoint[0] != host and ip_address(host).is_global and ":" not in host:
                tail = addr.split("/", 3)[3]
                guesses.append(f"/ip4/{host}/{tail}")
    return tuple(dict.fromkeys(guesses))
