"""Every error of the swarm, one tree.

SwarmError
├── LocalError            we (the user, this process) asked for something wrong
│   ├── UsageError            a flag or an argument is wrong
│   ├── ModelNotFound         no such model here, or the swarm serves none / several
│   ├── CheckpointCorrupt     a file of the checkpoint is truncated or malformed
│   ├── UnsupportedModel      an architecture that we have no family for
│   ├── PromptTooLong         more tokens than the model's context holds
│   ├── TokenOutOfRange       a token id outside the vocabulary
│   ├── AddressInvalid        a multiaddr that cannot be parsed or dialled
│   ├── AddressInUse          the port to listen on is taken
│   ├── IdentityInUse         another process runs with this key
│   ├── NotEnoughMemory       the span does not fit
│   └── DaemonDied            our own libp2p daemon ended
├── RemoteError           a peer misbehaved
│   ├── ProtocolError         bytes or fields that break the wire format
│   ├── VersionMismatch       no common protocol version
│   ├── WrongSwarmKey         of another private swarm than ours, or one of us of none
│   ├── HopRefused            a server said no to this request, and would again
│   ├── HopFailed             a server failed while it computed
│   └── BadResult             a result of the wrong shape, or with non-finite numbers
└── UnavailableError      nobody's fault: not now, or not any more
    ├── PeerUnreachable       the peer cannot be dialled
    ├── SwarmUnreachable      none of the initial peers answers
    ├── BlocksMissing         nobody serves some blocks
    ├── HopLost               the stream to a hop ended
    ├── HopTimeout            no result within the step's deadline
    ├── HopLeaving            a server asks for its sessions to be moved
    ├── SessionLost           the server does not know this session (any more)
    └── Busy                  no room now; try again after `retry_after` seconds

Each leaf has a wire code, so that it can travel in an Error message, and says whether the same
request may succeed elsewhere or later (`retryable`). A message names the thing, the value, the
limit and the remedy, in one line.
"""

from __future__ import annotations


class SwarmError(Exception):
    """Anything that this package raises on purpose."""

    code = 0
    retryable = False


class LocalError(SwarmError, ValueError):
    """We asked for something wrong: the same call fails again until it is changed."""


class RemoteError(SwarmError):
    """A peer misbehaved: another peer may do better."""

    retryable = True


class UnavailableError(SwarmError):
    """Not now, or not any more: waiting or another peer may help."""

    retryable = True


class UsageError(LocalError):
    """A flag or an argument is wrong."""

    code = 10


class ModelNotFound(LocalError):
    """No such model on this machine, or the swarm serves none, or more than one."""

    code = 11


class CheckpointCorrupt(LocalError):
    """A file of the checkpoint is truncated or malformed."""

    code = 12


class UnsupportedModel(LocalError):
    """An architecture that we have no family for; the message lists those we have."""

    code = 13


class PromptTooLong(LocalError):
    """More tokens than the model's context holds."""

    code = 14


class TokenOutOfRange(LocalError):
    """A token id outside [0, vocabulary)."""

    code = 15


class AddressInvalid(LocalError):
    """A multiaddr that cannot be parsed, or that misses its /p2p/ID."""

    code = 16


class AddressInUse(LocalError):
    """The address to listen on is taken by another process."""

    code = 17


class IdentityInUse(LocalError):
    """Another live process uses the same identity key."""

    code = 18


class NotEnoughMemory(LocalError):
    """The span, its KV pages and the workspace do not fit in `--memory`."""

    code = 19


class DaemonDied(LocalError):
    """Our own libp2p daemon ended; the process cannot reach anybody and must restart."""

    code = 20


class ProtocolError(RemoteError):
    """Bytes or fields that break the wire format; the stream they came on is closed."""

    code = 30


class VersionMismatch(RemoteError):
    """No protocol version in common; the message names both sides' versions."""

    code = 31


class HopRefused(RemoteError):
    """A server said no before it touched its pages, and would say no again."""

    code = 32


class HopFailed(RemoteError):
    """A server failed while it computed; what it holds of the session is undefined."""

    code = 33


class BadResult(RemoteError):
    """A result of the wrong shape or dtype, or with numbers that are not finite."""

    code = 34


class WrongSwarmKey(RemoteError):
    """The peer has another swarm key than we have, or one of us has none: it is of another swarm."""

    code = 35


class PeerUnreachable(UnavailableError):
    """A peer cannot be dialled at any of its addresses."""

    code = 50


class SwarmUnreachable(UnavailableError):
    """None of the initial peers answers."""

    code = 51


class BlocksMissing(UnavailableError):
    """Nobody serves some blocks; the message names the ranges and how long we waited."""

    code = 52


class HopLost(UnavailableError):
    """The stream to a hop ended in the middle of a session."""

    code = 53


class HopTimeout(UnavailableError):
    """No result within the step's deadline; the hops may or may not hold the step."""

    code = 54


class SessionLost(UnavailableError):
    """The server does not hold this session (any more): open it again and replay."""

    code = 55


class Busy(UnavailableError):
    """No room now.

    Attributes:
        retry_after: Seconds after which another try makes sense.
    """

    code = 56

    def __init__(self, text: str, *, retry_after: float = 1.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class HopLeaving(UnavailableError):
    """A server is about to leave, or to change its blocks: its sessions are to be moved; until then it serves."""

    code = 57


def _leaves(root: type[SwarmError]) -> dict[int, type[SwarmError]]:
    found = {root.code: root} if root.code else {}
    for child in root.__subclasses__():
        found |= _leaves(child)
    return found


_BY_CODE = _leaves(SwarmError)


def from_code(code: int, text: str, *, retry_after: float = 1.0) -> SwarmError:
    """Rebuild the error that a peer sent; an unknown code becomes a `RemoteError`."""
    kind = _BY_CODE.get(code, RemoteError)
    return Busy(text, retry_after=retry_after) if kind is Busy else kind(text)
