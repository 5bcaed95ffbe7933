"""What the doctor says: findings, each with a level, and for what is wrong a code that stays the same for ever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

MAX_SHOWN = 600
"""Characters of a text or a remedy: parts of them come from strangers."""


class Level(Enum):
    """How bad it is: a FAULT ends the doctor with status 1, a WARNING does not."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "FAULT"


class Code(Enum):
    """What is wrong: a number that never means anything else, and a name that people remember."""

    PORT_CLOSED = "SW01", "port-closed"
    WRONG_PEER_ID = "SW02", "wrong-peer-id"
    BOOTSTRAP_DEAD = "SW03", "bootstrap-dead"
    WRONG_SWARM_KEY = "SW04", "wrong-swarm-key"
    VERSION_MISMATCH = "SW05", "version-mismatch"
    LOCAL_ADDRESS = "SW06", "local-address"
    ONE_WAY = "SW07", "one-way"
    BLOCKS_UNCOVERED = "SW08", "blocks-uncovered"
    FINGERPRINT_MISMATCH = "SW09", "fingerprint-mismatch"
    DISK_FULL = "SW10", "disk-full"
    NOT_ENOUGH_MEMORY = "SW11", "not-enough-memory"
    CLOCK_WRONG = "SW12", "clock-wrong"
    PORT_TAKEN = "SW13", "port-taken"
    SERVER_SILENT = "SW14", "server-silent"
    NO_PEERS = "SW15", "no-peers"
    MODEL_UNUSABLE = "SW16", "model-unusable"
    IDENTITY_UNUSABLE = "SW17", "identity-unusable"
    DAEMON_DEAD = "SW18", "daemon-dead"
    NOT_EXAMINED = "SW90", "not-examined"

    @property
    def number(self) -> str:
        """Such as SW03."""
        return self.value[0]

    @property
    def title(self) -> str:
        """Such as bootstrap-dead."""
        return self.value[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one look has shown.

    Attributes:
        check: Which check looked.
        level: See `Level`.
        code: What is wrong; None if nothing is.
        text: What was seen; it names the peer, the address, the blocks.
        remedy: What to do about it, in one sentence; empty if nothing is wrong.
        about: Whom and what it concerns, for programs: peer ids, multiaddrs, spans, folders.
    """

    check: str
    text: str
    level: Level = Level.OK
    code: Code | None = None
    remedy: str = ""
    about: tuple[str, ...] = ()

    def line(self) -> str:
        """Return it as one line for a terminal."""
        what = f"{self.code.number} {self.code.title}: " if self.code else f"{self.check}: "
        remedy = f" -> {shown(self.remedy)}" if self.remedy else ""
        return f"{self.level.value:<8} {what}{shown(self.text)}{remedy}"

    def as_json(self) -> Mapping[str, object]:
        """Return it as a table of plain values."""
        return {
            "level": self.level.value.lower(),
            "check": self.check,
            "code": self.code.number if self.code else None,
            "name": self.code.title if self.code else None,
            "text": shown(self.text),
            "remedy": shown(self.remedy),
            "about": [shown(each) for each in self.about],
        }


def ok(check: str, text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check=check, text=text)


def warning(check: str, code: Code, text: str, remedy: str, *about: str) -> Finding:
    """Return a finding that something is odd, and the swarm does all the same."""
    return Finding(check=check, level=Level.WARNING, code=code, text=text, remedy=remedy, about=about)


def fault(check: str, code: Code, text: str, remedy: str, *about: str) -> Finding:
    """Return a finding that something is wrong."""
    return Finding(check=check, level=Level.FAULT, code=code, text=text, remedy=remedy, about=about)


def shown(text: str) -> str:
    """Return `text` as a terminal may show it: one line, bounded, nothing in it that a stranger could steer it with."""
    plain = "".join(char if char.isprintable() else " " for char in text[: MAX_SHOWN + 1])
    return plain if len(plain) <= MAX_SHOWN else plain[:MAX_SHOWN] + "..."
